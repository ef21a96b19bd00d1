"""A run put together: data, model, optimizer and freezer of one rank, before the first step."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.optim import Optimizer

from freezer.config import FreezeConfig
from freezer.events import FreezeEvent
from freezer.freezer import Freezer
from freezer.parallel import DDP, Single
from freezer.windows import MemoryWindows, WindowStore
from workers.jobs.freeze_schema import confined
from workers.jobs.layout import AttemptFiles, AttemptSpec, JobFiles
from workers.jobs.paths import PathOutside
from workers.jobs.spec import JobSpec, TrainingSpec
from workers.settings import Settings
from workers.training import models
from workers.training.batch import Batch, check_logits, forward
from workers.training.datasets import DataBundle, load
from workers.training.errors import ConfigInvalid
from workers.training.optim import make_optimizer
from workers.training.process_group import Ranks
from workers.training.room import bounded, free_disk, free_ram
from workers.training.sampler import StepPlan

WINDOW_TTL_SECONDS = 3600.0
"""So long the trajectories of a job can be looked at when its attempt has ended, however that was."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What the loop works on."""

    attempt: AttemptSpec
    files: AttemptFiles
    settings: Settings
    ranks: Ranks
    data: DataBundle
    model: nn.Module
    """The bare model; the loop calls ``freezer.model``."""
    optimizer: Optimizer
    freezer: Freezer
    events: list[FreezeEvent]
    """Events that the freezer gave out and nobody reported yet."""
    plan: StepPlan
    windows: WindowStore | None
    """Of rank 0, where a store mirrors them; else the freezer keeps its own."""
    total_steps: int
    bf16: bool
    inherited: models.Inherited | None = None
    """What came from the job that the spec starts from."""

    @property
    def spec(self) -> JobSpec:
        return self.attempt.spec

    @property
    def training(self) -> TrainingSpec:
        return self.attempt.spec.training

    @property
    def job_files(self) -> JobFiles:
        """Files of all attempts of the job."""
        return JobFiles(self.files.root.parent.parent.parent, self.attempt.job_id)

    def batches(self, step: int) -> list[Batch]:
        """This rank's micro-batches after ``step`` completed steps."""
        return [self.data.train.batch(indices) for indices in self.plan.micro_batches(step, self.ranks.rank)]

    def naming(self, step: int) -> Callable[[int], AbstractContextManager[None]]:
        """For each micro-batch of the step that follows ``step`` completed ones: names its samples to the freezer,
        and those of the pass after it, which may then be fetched meanwhile."""
        rank = self.ranks.rank
        passes = self.plan.micro_batches(step, rank)
        if step + 1 < self.total_steps:
            passes = [*passes, self.plan.micro_batches(step + 1, rank)[0]]

        def around(index: int) -> AbstractContextManager[None]:
            if index + 1 < len(passes):
                self.freezer.prefetch(passes[index + 1])
            return self.freezer.batch(passes[index])

        return around

    def prepare_freezer(self) -> None:
        """Let the freezer find the units, after a checkpoint was loaded or none was found."""
        inputs = self.batches(0)[0].to(self.ranks.device).inputs
        self.freezer.model.train()
        if isinstance(inputs, dict):
            self.freezer.prepare(**inputs)
        else:
            self.freezer.prepare(inputs)

    def close(self) -> None:
        """End the threads of policy and window mirror, and leave nothing of the cache."""
        try:
            self.freezer.close()
        finally:
            shutil.rmtree(self.files.cache(self.ranks.rank), ignore_errors=True)
            with suppress(OSError):  # the last rank takes the folder with it
                self.files.caches.rmdir()
        if self.windows is not None and hasattr(self.windows, "close"):
            self.windows.close()

    def seed_rank(self) -> None:
        """Random numbers of the steps: dropout differs between the ranks."""
        _seed(self.training.seed + 1_000_003 * (self.ranks.rank + 1))


def prepare(attempt: AttemptSpec, files: AttemptFiles, ranks: Ranks, settings: Settings) -> Run:
    """Build everything from the spec, the same on all ranks.

    Raises:
        TrainingError, freezer.errors.ConfigError: the spec cannot work; the message names the fix.
    """
    spec, training = attempt.spec, attempt.spec.training
    _seed(training.seed)
    data = load(spec.data, settings, spec.model)
    plan = step_plan(training, samples=len(data.train), world=ranks.world)
    total = plan.total_steps(training.epochs, training.max_steps)
    if training.early_stop is not None and data.validation is None:
        raise ConfigInvalid("early stop needs data to watch: set data.validation_ratio, for example to 0.1")
    model = models.build(spec.model, data.task, settings, seed=training.seed)
    inherited = None
    if spec.model.init_from is not None:
        inherited = models.inherit(model, spec.model.init_from, Path(attempt.home))
    model.to(ranks.device)
    optimizer = make_optimizer(model, training.optimizer)
    if ranks.leads:
        _clear_caches(files)
    directory = files.cache(ranks.rank)
    ram, disk = ranks.broadcast([free_ram(), free_disk(directory)])
    config = bounded(freeze_config(spec, settings), settings, ranks=ranks.world, ram_free=ram, disk_free=disk)
    events: list[FreezeEvent] = []
    windows = _windows(attempt, settings, config.length) if ranks.leads else None
    freezer = Freezer(
        model,
        optimizer,
        config=config,
        total_steps=total,
        windows=windows,
        on_event=events.append,
        parallel=DDP(control_group=ranks.control) if ranks.world > 1 else Single(),
        directory=directory,
        samples=len(plan.share(ranks.rank)),
    )
    run = Run(
        attempt=attempt,
        files=files,
        settings=settings,
        ranks=ranks,
        data=data,
        model=model,
        optimizer=optimizer,
        freezer=freezer,
        events=events,
        plan=plan,
        windows=windows,
        total_steps=total,
        bf16=use_bf16(training.precision, ranks.device),
        inherited=inherited,
    )
    first = run.batches(0)[0].to(ranks.device)
    model.eval()
    with torch.no_grad():
        check_logits(forward(model, first.inputs), first, data.task.num_classes)
    return run


def freeze_config(spec: JobSpec, settings: Settings) -> FreezeConfig:
    """The freeze section, its paths absolute and inside the operator's directory: what submission checked may have
    changed since, and on another machine.

    Raises:
        ConfigInvalid, freezer.errors.ConfigError: the weights lie outside, or there are none.
    """
    try:
        return confined(spec.freeze_config(), settings.data_dir)
    except PathOutside as error:
        raise ConfigInvalid(f"/freeze/options/weights: {error}") from error


def step_plan(training: TrainingSpec, *, samples: int, world: int) -> StepPlan:
    """Raises ConfigInvalid when the training set is smaller than one step."""
    try:
        return StepPlan(
            samples=samples,
            batch_size=training.batch_size,
            accumulation=training.gradient_accumulation,
            world=world,
            seed=training.seed,
        )
    except ValueError as error:
        raise ConfigInvalid(str(error)) from error


def use_bf16(precision: str, device: torch.device) -> bool:
    """``auto``: on GPUs that have it. On the CPU only when asked for, since few are faster with it.

    Raises:
        ConfigInvalid: asked for on a GPU without it.
    """
    has = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has:
        raise ConfigInvalid("this GPU has no bfloat16: use training.precision fp32 or auto")
    return precision == "bf16" or (precision == "auto" and has and device.type == "cuda")


def _clear_caches(files: AttemptFiles) -> None:
    """Of earlier attempts, whose ranks are gone: the guardian that should have done it may have been killed too."""
    for caches in files.root.parent.glob("attempt-*/cache"):
        if caches != files.caches:
            shutil.rmtree(caches, ignore_errors=True)


def _windows(attempt: AttemptSpec, settings: Settings, capacity: int) -> WindowStore | None:
    """The local ring, mirrored to the store of windows where there is one."""
    url = settings.window_redis_url or settings.redis_url
    if url is None:
        return None
    from workers.window_store import RedisWindows, WriteBehindWindows

    def remote() -> RedisWindows:
        return RedisWindows(url, settings.key_prefix, attempt.job_id, capacity, WINDOW_TTL_SECONDS)

    # renewed, since one snapshot may come hours after the other
    return WriteBehindWindows(MemoryWindows(capacity), remote, renew_seconds=WINDOW_TTL_SECONDS / 6)


def _seed(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
