"""The training loop of one rank, top to bottom."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable

from workers.jobs.record import Progress
from workers.training import best, resume
from workers.training.commands import Commands
from workers.training.control import Action, ControlPoint
from workers.training.errors import TrainingError
from workers.training.evaluate import Score, evaluate
from workers.training.optim import lr_factor, set_lr
from workers.training.outcome import storage_words
from workers.training.resume import Position
from workers.training.run import Run
from workers.training.step import train_step
from workers.training.telling import Teller

_log = logging.getLogger(__name__)
FAIL_AT = "SMARTFRZ_TEST_FAIL_AT"
"""``rank:step``: on the first attempt that rank kills itself before the step that follows ``step`` completed ones."""


class OwnershipLost(Exception):
    """The store refused this attempt's fence: another one owns the job."""


class Stopped(Exception):
    """An order to stop, met by all ranks at the same point."""

    def __init__(self, action: Action) -> None:
        super().__init__(action)
        self.action = action


def train(run: Run, position: Position, teller: Teller) -> None:
    """Train from ``position``, which moves, to the end: all steps, or fewer by early stop.

    A checkpoint that cannot be written is told and ends nothing: the next one is tried when its time comes.

    Raises:
        Stopped: after an order, on all ranks after the same step.
        OwnershipLost: on rank 0, at once, when its fence is refused.
        OSError: on rank 0, the weights of the best evaluation could not be written.
    """
    if position.stopped_early:  # resumed in the middle of what comes after
        return
    spec, total = run.training, run.total_steps
    base_lr = spec.optimizer.lr
    save_every = spec.checkpoint_every_steps
    seconds = None if save_every else spec.checkpoint_every_seconds
    commands = Commands(run, position, teller)
    control = ControlPoint(
        run.files.control,
        run.ranks,
        start_step=position.step,
        checkpoint_seconds=seconds,
        take=commands.take,
    )
    pace = Pace(position.step)
    run.freezer.model.train()
    teller.freeze_events(run, position.step)  # a static policy froze before the first step
    commands.start()
    while position.step < total:
        _fail_on_purpose(run, position.step)
        if _evaluation_due(run, position) and _evaluate(run, position, teller):
            position.stopped_early = True
            return
        began = time.perf_counter()
        lr = base_lr * lr_factor(spec.lr_schedule, position.step, total)
        set_lr(run.optimizer, lr)
        loss = train_step(
            run.freezer.model,
            run.optimizer,
            run.batches(position.step),
            device=run.ranks.device,
            bf16=run.bf16,
            grad_clip=spec.grad_clip,
            around=run.naming(position.step),
        )
        run.freezer.step()
        position.step += 1
        pace.add(loss)
        told = control.due(position.step) or position.step == total
        mean = pace.mean_loss() if told else None
        position.train_seconds += time.perf_counter() - began  # after the wait for the device, whenever there is one
        teller.freeze_events(run, position.step)
        if teller.stale:
            raise OwnershipLost
        if mean is not None:
            if not math.isfinite(mean):
                raise TrainingError(
                    f"the loss is {mean} at step {position.step}: lower training.optimizer.lr, set training.grad_clip "
                    "or use a warm-up (training.lr_schedule.warmup_ratio)"
                )
            teller.step(run, progress(run, position, pace, mean, lr), step_seconds=pace.step_seconds())
        order = control.after(position.step)
        commands.obey(order.commands)
        if order.action is not None:
            raise Stopped(order.action)
        if order.checkpoint or (save_every and position.step % save_every == 0 and position.step < total):
            save_checkpoint(run, position, teller)
            control.saved()
    if spec.early_stop is not None and position.evaluated_at != position.step:
        _evaluate(run, position, teller)  # the last epoch's weights may be the best ones


class Pace:
    """Loss and speed since the last look; the loss stays on the device until somebody asks."""

    def __init__(self, step: int) -> None:
        self._started, self._first_step = time.perf_counter(), step
        self._since, self._steps, self._done = self._started, 0, 0
        self._loss: object = 0.0

    def add(self, loss: object) -> None:
        """Count a step and its loss (a tensor (), not read here)."""
        self._loss = self._loss + loss  # type: ignore[operator]
        self._steps += 1
        self._done += 1

    def mean_loss(self) -> float:
        """Mean since the last call; waits for the device."""
        mean = float(self._loss) / max(1, self._steps)  # type: ignore[arg-type]
        self._last_steps, self._loss, self._steps = self._steps, 0.0, 0
        return mean

    def step_seconds(self) -> float:
        """Mean seconds a step since the last call, waiting for other ranks and evaluations included."""
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        return elapsed / max(1, self._last_steps)

    def eta_seconds(self, remaining: int) -> float:
        """At the mean pace of this attempt so far."""
        return (time.perf_counter() - self._started) / max(1, self._done) * remaining


def progress(run: Run, position: Position, pace: Pace, loss: float, lr: float) -> Progress:
    """What the record shows while training."""
    return Progress(
        ratio=position.step / run.total_steps,
        step=position.step,
        total_steps=run.total_steps,
        epoch=position.step / run.plan.steps_per_epoch,
        eta_seconds=pace.eta_seconds(run.total_steps - position.step),
        loss=loss,
        learning_rate=lr,
        phase="training",
    )


def between_batches(run: Run, teller: Teller) -> Callable[[int, int], None]:
    """For an evaluation: looks for orders between batches, on all ranks alike, and tells the seconds left.

    The callable raises Stopped, and OwnershipLost.
    """
    control = ControlPoint(run.files.control, run.ranks, start_step=0, checkpoint_seconds=None, max_growth=2.0)
    began = time.perf_counter()

    def look(done: int, of: int) -> None:
        if teller.stale:
            raise OwnershipLost
        if not control.due(done):
            return
        order = control.after(done)
        if order.action is not None:
            raise Stopped(order.action)
        teller.evaluating((time.perf_counter() - began) / done * (of - done))

    return look


def _evaluation_due(run: Run, position: Position) -> bool:
    """At the beginning of an epoch, before its first step: a run resumed right there evaluates too, but not twice."""
    every = run.training.evaluate_every_epochs or (1 if run.training.early_stop else None)
    epoch, within = divmod(position.step, run.plan.steps_per_epoch)
    return every is not None and within == 0 < epoch and epoch % every == 0 and position.evaluated_at != position.step


def _evaluate(run: Run, position: Position, teller: Teller) -> bool:
    """Score the validation split (the test split where there is none). Whether to stop early, the same on all ranks."""
    held_out = run.data.validation is not None
    score = scored(run, position, "validation" if held_out else "test", teller)
    position.evaluated_at = position.step
    run.freezer.model.train()
    if held_out:  # the test split decides nothing
        run.freezer.observe(score.accuracy)
        teller.freeze_events(run, position.step)
    stop = run.training.early_stop
    if stop is None:
        return False
    if position.improved(score.accuracy, stop.min_delta):
        best.keep(run, position)
        return False
    return position.waited >= stop.patience


def scored(run: Run, position: Position, split: str, teller: Teller) -> Score:
    """Evaluate one split and tell of it."""
    began = time.perf_counter()
    data = run.data.validation if split == "validation" else run.data.test
    assert data is not None
    score = evaluate(
        run.model,
        data,
        run.ranks,
        batch_size=run.training.eval_batch_size,
        bf16=run.bf16,
        between=between_batches(run, teller),
    )
    position.evaluate_seconds += time.perf_counter() - began
    teller.evaluation(position.step, split, score)
    return score


def save_checkpoint(run: Run, position: Position, teller: Teller) -> OSError | None:
    """Write a checkpoint on rank 0, from all ranks, and tell of it.

    Returns:
        On rank 0, why it could not be written, which is told too; earlier checkpoints are untouched.
    """
    made = resume.collect(run, position)
    if made is None:
        return None
    try:
        resume.write(run, made)
    except OSError as error:  # on this rank alone, but the ranks have nothing more to say to each other here
        _log.warning("no checkpoint of step %d: %s", position.step, storage_words(error))
        teller.checkpoint_failed(position.step, storage_words(error))
        return error
    teller.checkpoint(position.step)
    return None


def _fail_on_purpose(run: Run, step: int) -> None:
    if run.attempt.fence == 1 and os.environ.get(FAIL_AT) == f"{run.ranks.rank}:{step}":
        _log.warning("killing this rank before step %d, as %s says", step + 1, FAIL_AT)
        os.kill(os.getpid(), signal.SIGKILL)
