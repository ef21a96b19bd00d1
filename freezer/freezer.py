"""The freezer: the one stateful object, a thin conductor of the parts that think (planner) and act (apply, parallel).

::

    freezer = Freezer(model, optimizer, policy="smartfrz", total_steps=steps)
    loss = criterion(freezer.model(inputs), targets)  # in place of model(inputs)
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    freezer.step()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freezer import policies
from freezer.account import Account
from freezer.apply import refuse_joint
from freezer.cache import CacheSettings, ForwardCache
from freezer.cache.rows import first_dimension
from freezer.config import FreezeConfig
from freezer.cost import Costs
from freezer.decisions import Decisions
from freezer.enact import Enactor
from freezer.errors import UnitError
from freezer.events import Cause, FreezeEvent
from freezer.factors import Factors, unit_by_parameter
from freezer.held import measure_held
from freezer.hooks import before_step, inside
from freezer.parallel import ParallelStrategy, Stopwatch, detect, refuse_unsupported
from freezer.pins import Pins
from freezer.plan import FreezePlan
from freezer.planner import PlannerState, check, check_static
from freezer.policies.base import Decides, complete, overrides
from freezer.prepared import Prepared
from freezer.proxy import ModelProxy
from freezer.rates import UnitRates, initial_rate, refuse_nothing
from freezer.recorder import Recorder
from freezer.report import unit_rows
from freezer.resume import Resumes
from freezer.surveyed import Surveyed
from freezer.thaw import RateWatch, ScoreWatch
from freezer.units import Unit
from freezer.windows import MemoryWindows, WindowStore
from freezer.worth import Held, prices_of, unit_prices


class Freezer(Resumes):
    """Watches a model's weights in training and freezes the units that have converged, on all ranks at one step.

    Args:
        model: the bare model, not compiled, not wrapped.
        optimizer: any optimizer over its parameters that updates each on its own (not LBFGS); it keeps all of them.
        config: settings; or name just a ``policy``.
        total_steps: planned optimizer steps of the whole run.
        windows: where snapshots go (rank 0 only), from a thread; a ring in memory by default. Complete after
            :meth:`close` or :meth:`state_dict`.
        policy: a policy object, or the name of one; it decides with the other settings of ``config``.
        on_event: called on every rank with each :class:`FreezeEvent`.
        parallel: strategy; by default DDP where several ranks are up.
        directory: room on this rank's disk: for the forward cache beyond its memory and, in training on the CPU, for
            the optimizer's moments of frozen units.
        samples: training samples that this rank sees in an epoch; tells the forward cache whether it can pay.

    Raises:
        ConfigError: settings that cannot work with this model or this length of run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        config: FreezeConfig | None = None,
        *,
        total_steps: int,
        windows: WindowStore | None = None,
        policy: Decides | str | None = None,
        on_event: Callable[[FreezeEvent], None] | None = None,
        parallel: ParallelStrategy | None = None,
        directory: Path | None = None,
        samples: int | None = None,
    ) -> None:
        refuse_unsupported(model)
        if config is None:
            config = FreezeConfig()
        if isinstance(policy, str):
            config = config.deciding_by(policy)
        self.config = config
        self.schedule = config.schedule(total_steps)
        if policy is None or isinstance(policy, str):
            self._policy = policies.make(config)
        else:
            self._policy = complete(policy, type(policy).__name__)
            self.config = replace(config, policy=self._policy.name)  # defaults that go by policy are this one's
        self._decides = self._policy.name != "none"
        if self._decides:
            refuse_joint(optimizer)
        self.parallel = parallel or detect()
        self.windows: WindowStore = windows if windows is not None else MemoryWindows(config.length)
        self._recorder = Recorder(self.windows, optimizer, capacity=config.length, spend=self._spend)
        self._decisions = Decisions(self._policy, self._recorder.submit)
        self.optimizer = optimizer
        self.on_event = on_event
        self.directory = directory
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self.plan = FreezePlan()
        self.history: list[dict[str, Any]] = []
        self._account = Account(next(model.parameters()).device, self.parallel.world_size)
        self.cache = ForwardCache(model, CacheSettings.of(config, directory), samples=samples)
        self.model = ModelProxy(model, self._around_training)
        self._bare = model
        self._step = 0
        self._planner = PlannerState()
        self._found: Prepared | None = None
        self._enactor: Enactor | None = None
        self._pins = Pins()
        self._known: Surveyed | None = None
        self._rate_watch = RateWatch(config.thaw_on_lr_drop, config.thaw_on_lr_restart)
        self._score_watch = ScoreWatch(config.thaw_on_worse)
        self._rates: UnitRates | None = None
        self._initial_rates = [initial_rate(group) for group in optimizer.param_groups]
        if overrides(self._policy, "rates"):
            refuse_nothing(self._initial_rates)
        self._update_hook: Any = None
        self._watched = False
        self._refused: str | None = None
        self._initial_rate = self._initial_rates[0]
        self._restored = False
        self._batch: tuple[Tensor, Tensor | None] | None = None

    @property
    def costs(self) -> Costs:
        """Counters of the run so far."""
        return self._account.costs

    # -- preparation -------------------------------------------------------------------------------------------------

    @property
    def units(self) -> list[Unit]:
        """Units in execution order; known after :meth:`prepare` or the first training pass."""
        return self._prepared.units

    @property
    def steps(self) -> int:
        """Completed optimizer steps."""
        return self._step

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Find the units by one pass over an example batch, wrap the model, take the snapshot of step 0.

        The first training pass does it by itself. All ranks must do it alike.
        """
        if self._found is not None:
            return
        with Stopwatch() as watch:
            found = self._found = Prepared(
                self._bare, self.optimizer, self.config, args, kwargs, self.directory, self._known
            )
            self._recorder.use(found.sampler)
            check(self.plan, found.units)
            self.parallel.same("units, step or plan", [found.digest, self._step, self.plan.digest])
            self._enactor = Enactor(self._bare, self.model, found, self.parallel)
            self._enactor.first(self.plan)
            self._retarget()
            self._set_rates()
            updates = [self.optimizer, *inside(self.optimizer)][-1]
            self._update_hook = before_step(updates, self.parallel.refuse_unsynchronised)
        self.costs.spend("prepare", watch.seconds)
        if self._restored:
            self._heed_new_pins()
        else:
            self._record()
            if self._policy.name == "static":
                check_static(found.units, self.config, self.pinned)
            if self._policy.at_start:
                self._begin_stage()
                self._conclude(0)

    @property
    def pinned(self) -> frozenset[str]:
        """Units that are never frozen: by the settings, and by :meth:`pin`."""
        return self._pins.in_force(self._prepared.pinned)

    def _set_rates(self) -> None:
        if not overrides(self._policy, "rates"):
            return
        found = self._prepared
        unit_of = unit_by_parameter(self._bare, found.used)
        factors = Factors(self._policy, found.used, self.schedule.total_steps)
        self._rates = UnitRates(
            self.optimizer, unit_of, lambda: factors.at(self._step, self.pinned), initial=self._initial_rates
        )

    def _retarget(self) -> None:
        remaining = self.schedule.total_steps - self._step
        self.cache.retarget(self.plan.digest, remaining, self._account.rows_per_step)

    @property
    def _prepared(self) -> Prepared:
        if self._found is None:
            raise UnitError(
                "the freezer has seen no training pass yet: call freezer.model(...) or freezer.prepare(...)"
            )
        return self._found

    @contextmanager
    def batch(self, ids: Tensor | Sequence[int], draws: Tensor | Sequence[int] | None = None) -> Iterator[None]:
        """Name the samples of the passes inside, so that the forward cache can know them again.

        Args:
            ids: int64 (n,), one for each row of the inputs; the same sample has the same id all through the run.
            draws: int64 (n,), which of its augmented forms each sample has here; none: samples are not augmented.
        """
        before, self._batch = self._batch, (_int64(ids), None if draws is None else _int64(draws))
        try:
            yield
        finally:
            self._batch = before

    def prefetch(self, ids: Tensor | Sequence[int], draws: Tensor | Sequence[int] | None = None) -> None:
        """Announce the samples of the next pass, so that the forward cache can gather them meanwhile."""
        self.cache.prefetch(_int64(ids), None if draws is None else _int64(draws))

    @contextmanager
    def _around_training(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        self.prepare(*args, **kwargs)
        found = self._prepared
        if self._enactor is not None and self._enactor.follow():
            self._retarget()
        if not self._watched:
            self._watched = True
            if self.parallel.rank == 0:
                self._policy.watch(self._bare, self.optimizer, found.used, (args, kwargs))
        self._account.begin_pass(found.passes(args, kwargs), first_dimension((args, kwargs)) or 0)
        ids, draws = self._batch or (None, None)
        with self.cache.around(ids, draws, args, kwargs):
            yield
        self._account.end_pass(found, self.cache)

    # -- one step ----------------------------------------------------------------------------------------------------

    def step(self) -> FreezeEvent | None:
        """Call once after each ``optimizer.step()``, on every rank.

        Returns:
            What changed, or ``None``.

        Raises:
            AgreementError: ranks hold different plans or are at different steps.
            PlanError, ConfigError: the policy's verdict must not be applied.
            VerificationError: the model is not in the state that the plan demands, or a layer is not synchronised.
        """
        found = self._prepared
        self._step += 1
        during = self.plan
        self.parallel.refuse_unsynchronised()
        self._account.end_work(found, self.parallel.reduced())
        event = self._see_rate()
        if self._decides and self.schedule.delay and self.schedule.takes_effect(self._step):
            event = self._conclude(self._step - self.schedule.delay) or event
        if self.schedule.is_snapshot(self._step):
            self._record()
        if self._decides and self.schedule.is_stage(self._step):
            self._begin_stage()
            if not self.schedule.delay:
                event = self._conclude(self._step) or event
        self._account.end_step(during)
        return event

    def _spend(self, kind: str, seconds: float) -> None:
        self.costs.spend(kind, seconds)

    def _change(self, plan: FreezePlan, cause: Cause) -> FreezeEvent | None:
        """Bring everything to a plan that all ranks hold, and tell of it. ``None`` where it is the old one."""
        assert self._enactor is not None
        if plan.digest == (before := self.plan).digest:
            self.plan = plan  # with newer probabilities
            return None
        with Stopwatch() as watch:
            self.plan = self._enactor.change(plan)
            self._retarget()
        self.costs.spend("apply", watch.seconds)
        event = FreezeEvent.between(before, plan, self.units, cause)
        if event.thawed:
            self._score_watch.restart()
            if self.parallel.rank == 0:
                self._recorder.forget(event.thawed)
        self.history.append(event.to_dict())
        if self.on_event is not None:
            self.on_event(event)
        return event

    def _see_rate(self) -> FreezeEvent | None:
        cause = self._rate_watch.see(float(self.optimizer.param_groups[0]["lr"]))
        if cause is None or not self.plan.frozen or self._policy.calendar:
            return None
        return self._thaw(None, cause)

    # -- reports --------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The freeze status document's part that the engine knows; JSON values."""
        pinned = self.pinned if self._found else frozenset()
        units = self._found.units if self._found else []
        prices = unit_prices(self._found.survey, self._held()) if self._found else {}
        return {
            "step": self._step,
            "plan_seq": self.plan.seq,
            "plan_hash": self.plan.digest,
            "policy": self._policy.name,
            "mode": self.config.mode,
            "units": unit_rows(units, self.plan, self._planner, self.history, pinned, self._recorder.filled(), prices),
            "refused": self._refused,
            "cache": self.cache.report(),
            "savings": self._account.note().savings(),
            "next_stage_at_step": self.schedule.next_stage(self._step) if self._decides else None,
        }

    def report(self) -> dict[str, Any]:
        """Costs and outcome of the run so far; measured figures and estimates apart. JSON values."""
        return {
            "steps": self._step,
            "total_steps": self.schedule.total_steps,
            "ranks": self.parallel.world_size,
            "policy": self._policy.name,
            "units": len(self._found.units) if self._found else 0,
            "frozen_units": list(self.plan.frozen),
            "history": list(self.history),
            "cache": self.cache.report(),
            "price": prices_of(self._found.survey, self.plan.frozen, self._held()) if self._found else {},
            **self._account.note().report(),
        }

    def _held(self) -> Held:
        found = self._prepared
        return measure_held(self._bare, self.optimizer, found.units, found.saved, stepped=self._step > 0)

    def close(self) -> None:
        """Bring the last snapshots into the windows, end the threads. The model stays as it is, hooks included."""
        self.cache.close()
        if self._rates is not None:
            self._rates.close()
        if self._update_hook is not None:
            self._update_hook.remove()
        if self._found is not None:
            self._found.applier.close()
        self._decisions.close()
        self._recorder.close()


def _int64(values: Tensor | Sequence[int]) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64, device="cpu")
