"""A worker of comparisons that a test plays, and a screen that remembers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from comparisons import report

from client.compare.progress import Silent

if TYPE_CHECKING:
    from client.conftest import Service


class Worker:
    """Ends each job in the queue: ``failing`` arms fail, and after ``most`` jobs it is interrupted."""

    def __init__(self, service: Service, failing: tuple[str, ...] = (), most: int = 99) -> None:
        self.service, self.failing, self.most = service, failing, most
        self.did: list[str] = []
        self.leaves_weights = True

    def __call__(self) -> None:
        with self.service.client() as client:
            for job in client.list(status=["queued"], order="asc")["data"]:
                if len(self.did) == self.most:
                    raise KeyboardInterrupt
                self.did.append(job["name"])
                self._end(job)

    def _end(self, job: dict[str, Any]) -> None:
        files = self.service.attempt(job["id"], self.service.start(job["id"]))
        if job["metadata"]["arm"] in self.failing:
            self.service.finish(job["id"], "failed", reason="host_oom", message="too little memory")
            return
        (files.artifacts / "report.json").write_text(json.dumps(report(0.9, 100.0)))
        if self.leaves_weights:
            files.weights.write_bytes(b"weights")
        self.service.finish(job["id"])


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ends: list[tuple[str, int, int, bool]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def ended(self, run: Any, record: Any, position: int, of: int, eta_seconds: float | None) -> None:
        self.ends.append((run.id, position, of, eta_seconds is not None))
