"""One attempt on one rank: build, resume, train, evaluate, leave the artifacts."""

from __future__ import annotations

import logging
import os

import torch

from workers.jobs.layout import AttemptFiles, AttemptSpec, Result
from workers.settings import Settings
from workers.training import outcome, resume
from workers.training.finish import finish
from workers.training.loop import Stopped, save_checkpoint, train
from workers.training.process_group import join, leave
from workers.training.reporter import Reporter
from workers.training.run import Run, prepare
from workers.training.telling import Teller

_log = logging.getLogger(__name__)


def train_job(attempt: AttemptSpec, files: AttemptFiles, settings: Settings, *, began: float) -> Result:
    """The whole attempt. ``began``: ``perf_counter`` at the start of the process.

    Raises:
        OwnershipLost: on rank 0, when its fence is refused.
        Exception: whatever failed; ``outcome.judge`` names it.
    """
    if attempt.threads_per_rank is not None:
        torch.set_num_threads(attempt.threads_per_rank)
    ranks = join(attempt.device, settings.collective_timeout_seconds)
    _log.info("rank %d of %d, attempt %d, pid %d", ranks.rank, ranks.world, attempt.attempt, os.getpid())
    reporter = _reporter(attempt, files, settings) if ranks.leads else None
    teller = Teller(reporter)
    try:
        run = prepare(attempt, files, ranks, settings)
        result = _train(run, teller, began)
        leave(ranks)
    finally:
        if reporter is not None:
            reporter.close()
    return result


def _train(run: Run, teller: Teller, began: float) -> Result:
    position = resume.restore(run)
    teller.started(run, position.step)
    try:
        train(run, position, teller)
        return finish(run, position, teller, began=began)
    except Stopped as stopped:
        trouble = save_checkpoint(run, position, teller) if stopped.action != "cancel" else None
        _log.info("stopped after step %d: %s", position.step, stopped.action)
        teller.freeze_status(run, position.step, "stopped")
        result = Result(outcome="stopped", action=stopped.action, step=position.step)
        if trouble is None:
            return result
        told = outcome.unsaved(trouble, position.step)
        return result.model_copy(update={"reason": told.reason, "message": told.message})
    finally:
        run.close()


def _reporter(attempt: AttemptSpec, files: AttemptFiles, settings: Settings) -> Reporter:
    store = None
    if settings.redis_url is not None:
        from workers.redis_store import RedisJobStore

        store = RedisJobStore(settings.redis_url, settings.key_prefix)
    return Reporter(store, job_id=attempt.job_id, fence=attempt.fence, metrics=files.metrics)
