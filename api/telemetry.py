"""Prometheus: gauges and totals from the store at scrape time, histograms of this process's requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from workers.jobs.ports import AsyncJobStore
from workers.jobs.record import TERMINAL, Status
from workers.jobs.tally import histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST
STATUSES: tuple[str, ...] = Status.__args__  # type: ignore[attr-defined]
WORKER_STATES = ("idle", "busy", "draining", "blocked")


class Telemetry:
    """What this process measured itself. One per app, so that several can live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "smartfrz_http_request_duration_seconds",
            "Time from the request to the end of its answer.",
            ("method", "route", "code"),
            registry=self._registry,
        )

    def observe(self, method: str, route: str, code: int, seconds: float) -> None:
        """``route`` is the template, never a raw path."""
        self._requests.labels(method, route, str(code)).observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self._registry)


async def render_store(store: AsyncJobStore) -> bytes:
    """The store's state now, and its totals over all jobs. Raises StoreUnavailable."""
    registry = CollectorRegistry()
    await _gauges(store, registry)
    registry.register(_Totals(await store.tallies()))
    return generate_latest(registry)


class _Totals:
    """Counted by the store with each write, whichever process wrote: :mod:`workers.jobs.tally`."""

    def __init__(self, tallies: Mapping[str, float]) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        wait = HistogramMetricFamily(
            "smartfrz_job_queue_wait_seconds", "From a job's submission until a worker first took it."
        )
        wait.add_metric([], *histogram(self._tallies, "queue_wait"))
        yield wait
        run = HistogramMetricFamily(
            "smartfrz_job_run_duration_seconds",
            "Time in which workers had a job, all attempts together, by how it ended.",
            labels=("status",),
        )
        for status in sorted(TERMINAL):
            run.add_metric([status], *histogram(self._tallies, f"run:{status}"))
        yield run
        saved = CounterMetricFamily(
            "smartfrz_flops_saved", "Estimated FLOPs that full training would have cost more, of jobs that succeeded."
        )
        saved.add_metric([], self._tallies.get("flops_saved", 0.0))
        yield saved
        events = CounterMetricFamily(
            "smartfrz_freeze_events",
            "Units frozen and thawed by all jobs so far; those undone by a resume count too.",
            labels=("policy", "action"),
        )
        for name, count in sorted(self._tallies.items()):
            kind, _, which = name.partition(":")
            if kind == "freeze":
                events.add_metric(which.rsplit(":", 1), count)
        yield events


async def _gauges(store: AsyncJobStore, registry: CollectorRegistry) -> None:
    counts, now, oldest = await store.counts(), await store.now(), await store.oldest_queued()
    jobs = Gauge("smartfrz_jobs", "Jobs by status.", ("status",), registry=registry)
    for status in STATUSES:
        jobs.labels(status).set(counts.get(status, 0))
    Gauge("smartfrz_queue_depth", "Jobs that wait for a worker.", registry=registry).set(counts.get("queued", 0))
    age = Gauge("smartfrz_queue_oldest_age_seconds", "Age of the oldest waiting job; 0 for none.", registry=registry)
    age.set(0.0 if oldest is None else max(0.0, now - oldest))
    alive = await store.workers()
    workers = Gauge("smartfrz_workers", "Workers alive, by state.", ("state",), registry=registry)
    for state in WORKER_STATES:
        workers.labels(state).set(sum(worker.state == state for worker in alive))
    frozen = Gauge(
        "smartfrz_job_frozen_parameters_ratio",
        "Share of the parameters that is frozen, of active jobs.",
        ("job",),
        registry=registry,
    )
    held_units = Gauge("smartfrz_job_frozen_units", "Frozen units, of active jobs.", ("job",), registry=registry)
    for record in await store.active():
        units = (await store.get_freeze(record.id) or {}).get("units", [])
        total = sum(unit.get("parameters", 0) for unit in units)
        held = sum(unit.get("parameters", 0) for unit in units if unit.get("state") == "frozen")
        frozen.labels(record.id).set(held / total if total else 0.0)
        held_units.labels(record.id).set(sum(unit.get("state") == "frozen" for unit in units))
