"""What the loop tells, in the words of the service: turns steps, scores and freeze events into reports of rank 0."""

from __future__ import annotations

import time
from typing import Any

from workers.jobs.record import Command, Progress
from workers.training.evaluate import Score
from workers.training.reporter import Reporter
from workers.training.run import Run

STATUS_SECONDS = 2.0
COMMANDS_SECONDS = 5.0
"""Longest wait for the store before the first step."""


class Teller:
    """Silent on every rank but 0, where it has a reporter."""

    def __init__(self, reporter: Reporter | None) -> None:
        self._reporter = reporter
        self._progress = Progress()
        self._status_at = -STATUS_SECONDS

    @property
    def stale(self) -> bool:
        """Whether this attempt lost the job."""
        return self._reporter is not None and self._reporter.stale.is_set()

    def started(self, run: Run, step: int) -> None:
        """Built, resumed, about to train. Decisions later than ``step`` are void: training goes on before them."""
        if self._reporter is None:
            return
        units = len(run.freezer.units)
        self._progress = Progress(
            ratio=step / run.total_steps,
            step=step,
            total_steps=run.total_steps,
            units=units,
            frozen_units=len(run.freezer.plan.frozen),  # a resumed run has some before its first event
            phase="training",
        )
        self._reporter.progress(self._progress)
        if run.attempt.fence > 1:  # not the attempt: a drained worker's does not count
            self._reporter.supersede(step if step else -1)
        self._reporter.event(
            "training.started",
            step=step,
            total_steps=run.total_steps,
            units=units,
            processes=run.ranks.world,
            device=run.ranks.device.type,
            policy=run.spec.freeze_config().policy,
        )
        self.freeze_status(run, step, "running")

    def step(self, run: Run, progress: Progress, *, step_seconds: float) -> None:
        """About once a second."""
        if self._reporter is None:
            return
        frozen = self._progress.frozen_units
        self._progress = progress.model_copy(update={"frozen_units": frozen, "units": self._progress.units})
        self._reporter.progress(self._progress)
        self._reporter.metric(
            progress.step,
            loss=progress.loss,
            learning_rate=progress.learning_rate,
            frozen_units=frozen,
            step_seconds=step_seconds,
        )
        if time.monotonic() - self._status_at >= STATUS_SECONDS:
            self.freeze_status(run, progress.step, "running")

    def freeze_events(self, run: Run, step: int) -> None:
        """Report what the freezer did since the last call."""
        events, run.events[:] = list(run.events), []
        if self._reporter is None or not events:
            return
        units, frozen = len(run.freezer.units), len(run.freezer.plan.frozen)
        self._progress = self._progress.model_copy(update={"frozen_units": frozen, "units": units})
        for event in events:
            self._reporter.decision({**event.to_dict(), "policy": run.spec.freeze_config().policy})
            changes = [("unit.frozen", name) for name in event.frozen] + [
                ("unit.thawed", name) for name in event.thawed
            ]
            for kind, name in changes:
                self._reporter.event(
                    kind,
                    unit=name,
                    index=event.indices[name],
                    step=event.step,
                    probability=event.probabilities.get(name),
                    cause=event.cause,
                    of=units,
                )
        self.freeze_status(run, step, "running")

    def await_commands(self) -> None:
        """Until the store was asked once what had been ordered while the job waited; not for long."""
        if self._reporter is not None:
            self._reporter.await_commands(COMMANDS_SECONDS)

    def commands(self, *, after: int) -> list[Command]:
        """Freeze commands with a higher seq that came in so far, in order."""
        return [] if self._reporter is None else self._reporter.commands(after)

    def command(self, seq: int, step: int, error: str | None) -> None:
        """What became of a freeze command."""
        if self._reporter is not None:
            self._reporter.settle(seq, step, error)

    def evaluating(self, eta_seconds: float) -> None:
        """While a split is evaluated."""
        self._phase("evaluating", eta_seconds)

    def saving(self) -> None:
        """While the artifacts are written."""
        self._phase("saving", None)

    def finished(self, run: Run, step: int) -> None:
        self.freeze_status(run, step, "succeeded")

    def _phase(self, phase: str, eta_seconds: float | None) -> None:
        if self._reporter is not None:
            self._reporter.progress(self._progress.model_copy(update={"phase": phase, "eta_seconds": eta_seconds}))

    def evaluation(self, step: int, split: str, score: Score) -> None:
        if self._reporter is not None:
            self._reporter.metric(step, **{f"{split}_accuracy": score.accuracy, f"{split}_loss": score.loss})
            self._reporter.event(
                "evaluation", step=step, split=split, accuracy=score.accuracy, loss=score.loss, samples=score.samples
            )

    def checkpoint(self, step: int) -> None:
        if self._reporter is not None:
            self._reporter.event("checkpoint.saved", step=step)

    def checkpoint_failed(self, step: int, message: str) -> None:
        """It could not be written; the run goes on."""
        if self._reporter is not None:
            self._reporter.event("checkpoint.failed", step=step, message=message)

    def freeze_status(self, run: Run, step: int, status: str) -> None:
        """The freeze status document."""
        if self._reporter is not None:
            self._reporter.freeze_status(freeze_document(run, step, status))
            self._status_at = time.monotonic()


def freeze_document(run: Run, step: int, status: str) -> dict[str, Any]:
    """What ``GET /v1/jobs/{id}/freeze`` shows."""
    config = run.spec.freeze_config()
    return {
        "job_id": run.attempt.job_id,
        "status": status,
        "attempt": run.attempt.attempt,
        "step": step,
        "policy": config.policy,
        "mode": config.mode,
        **run.freezer.status(),
        "updated_at": time.time(),
    }
