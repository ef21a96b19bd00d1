"""From a comparison to its runs. Pure: the same file gives the same runs, in the same order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pydantic import ValidationError

from client.compare.definition import EARLY_STOP_DEFAULT, NO_FREEZING, START, Arm, Comparison, Kind, Workload
from client.compare.errors import ComparisonError, pointer_of
from client.compare.overrides import changed
from client.flows import Json
from freezer.errors import ConfigError
from workers.jobs.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Run:
    """One job of the comparison.

    Attributes:
        spec: what is submitted, but for the job that it starts from (:meth:`from_job`).
        digest: SHA-256 of the spec without name and metadata, which change no result; with that of the start.
        start: the run whose weights this one starts from.
    """

    workload: str
    arm: str
    kind: Kind
    seed: int
    spec: Json
    digest: str
    start: Run | None = None

    @property
    def id(self) -> str:
        """Also the name of its file."""
        return f"{self.workload}--{self.arm}--{self.seed}"

    @property
    def title(self) -> str:
        return f"{self.workload}/{self.arm}/{self.seed}"

    def from_job(self, job_id: str) -> Run:
        """The same run, with the job of its start filled in: digest and name of the file do not know it."""
        return replace(self, spec=changed(self.spec, {"model": {"init_from": job_id}}, ""))


def expand(comparison: Comparison) -> tuple[Run, ...]:
    """All runs, arms interleaved seed by seed, so that a part of them is already a fair comparison.

    Raises:
        ComparisonError: a spec cannot work; the pointer names the workload or arm that is to blame.
    """
    for workload in comparison.workloads:
        pointer = pointer_of("workloads", workload.name)
        _validated(workload.spec | NO_FREEZING, workload.name, pointer)
        if workload.start is not None:
            _validated(workload.start | NO_FREEZING, workload.name, f"{pointer}/start")
            _one_start(workload.spec, pointer)
    most = max(len(workload.seeds) for workload in comparison.workloads)
    return tuple(
        run_of(comparison.name, workload, arm, workload.seeds[turn])
        for turn in range(most)
        for workload in comparison.workloads
        if turn < len(workload.seeds)
        for arm in comparison.arms
        if arm.by_workload.get(workload.name) is not False
    )


def starts_of(runs: Iterable[Run]) -> tuple[Run, ...]:
    """What the runs start from, each once, in their order."""
    return tuple({run.start.id: run.start for run in runs if run.start is not None}.values())


def run_of(comparison: str, workload: Workload, arm: Arm, seed: int) -> Run:
    """One run. Raises ComparisonError."""
    pointer = pointer_of("arms", arm.entry)
    spec = changed(workload.spec, NO_FREEZING if arm.kind != "policy" else {"freeze": {}}, pointer)
    if arm.kind == "early-stop":
        spec = changed(spec, EARLY_STOP_DEFAULT, pointer)
    spec = changed(spec, arm.overrides, pointer)
    if (own := arm.by_workload.get(workload.name)) is not None:
        spec = changed(spec, own, pointer + pointer_of("workloads", workload.name))
    if arm.fraction is not None:
        steps = round(arm.fraction * full_steps(workload))
        if steps < 1:
            raise ComparisonError(f"{pointer}/fractions", f"{arm.fraction:g} of {workload.name!r} are no steps")
        spec = changed(spec, {"training": {"max_steps": steps}}, pointer)
    spec = changed(spec, {"training": {"seed": seed}}, pointer)
    if arm.kind == "policy":
        if not isinstance(spec["freeze"], dict) or not spec["freeze"].get("policy"):
            raise ComparisonError(f"{pointer}/freeze/policy", "the arm names no policy")
        spec["freeze"].setdefault("seed", seed)  # the random control and the sampled weights differ by seed too
    spec = _described(spec, comparison, workload.name, arm.name, seed)
    _validated(spec, workload.name, pointer)
    if workload.start is None:
        return Run(workload.name, arm.name, arm.kind, seed, spec, digest_of(spec))
    _one_start(spec, pointer)
    start = _start_of(comparison, workload.name, workload.start, seed)
    return Run(workload.name, arm.name, arm.kind, seed, spec, digest_of(spec, start.spec), start)


def _start_of(comparison: str, workload: str, recipe: Json, seed: int) -> Run:
    spec = changed(recipe, NO_FREEZING | {"training": {"seed": seed}}, pointer_of("workloads", workload, "start"))
    spec = _described(spec, comparison, workload, START, seed)
    return Run(workload, START, "start", seed, spec, digest_of(spec))


def _described(spec: Json, comparison: str, workload: str, arm: str, seed: int) -> Json:
    described = {"comparison": comparison, "workload": workload, "arm": arm, "seed": str(seed)}
    name = f"{workload}/{arm}/{seed}"[:128]
    return spec | {"name": name, "metadata": spec.get("metadata", {}) | described}


def _one_start(spec: Json, pointer: str) -> None:
    """Raises ComparisonError where the spec names weights of its own beside the workload's start."""
    for name in ("init_from", "path"):
        # a path of transformers names the network, too
        if spec["model"].get(name) is not None and (name == "init_from" or spec["model"]["name"] != "transformers"):
            text = "names weights to start from, as the workload's start does: take one of them out"
            raise ComparisonError(f"{pointer}/model/{name}", text)


def digest_of(spec: Json, start: Json | None = None) -> str:
    """Of what was written, without defaults, name and metadata: a new default of a later version changes no digest.

    Args:
        start: spec of the job that the run starts from; not its id, which another service would not know.
    """
    kept = _kept(spec) if start is None else _kept(spec) | {"start": _kept(start)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _kept(spec: Json) -> Json:
    return {name: value for name, value in spec.items() if name not in ("name", "metadata")}


def full_steps(workload: Workload) -> int:
    """Optimizer steps of full training; exact unless a validation split rounds.

    Raises:
        ComparisonError: the size of the training set is not told.
    """
    spec = JobSpec.model_validate({"name": workload.name, **workload.spec})
    training = spec.training
    if spec.data.train_size is None:
        if training.max_steps is None:
            text = "arm 'shorter' must know how many steps full training has: set data.train_size (the whole set's "
            raise ComparisonError(
                f"{pointer_of('workloads', workload.name)}/data/train_size",
                text + "size will do) or training.max_steps",
            )
        return training.max_steps
    samples = int(spec.data.train_size * (1.0 - spec.data.validation_ratio))
    step = training.gradient_accumulation * training.batch_size
    steps = training.epochs * (samples // spec.resources.processes_per_worker // step)
    return steps if training.max_steps is None else min(steps, training.max_steps)


def _validated(spec: Json, name: str, pointer: str) -> None:
    try:
        JobSpec.model_validate({"name": name, **spec}).freeze_config()
    except ValidationError as error:
        fault = error.errors()[0]
        raise ComparisonError(pointer + pointer_of(*fault["loc"]), f"{fault['msg']} (workload {name!r})") from None
    except ConfigError as error:
        raise ComparisonError(f"{pointer}/freeze{error.pointer}", f"{error} (workload {name!r})") from None
    except TypeError as error:
        raise ComparisonError(f"{pointer}/freeze", f"{error} (workload {name!r})") from None
