"""The freezer: the one stateful object, a thin conductor of the parts that think (planner) and act (apply, parallel).

::

    freezer = Freezer(model, optimizer, policy="smartfrz", total_steps=steps)
    loss = criterion(freezer.model(inputs), targets)  # in place of model(inputs)
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    freezer.step()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freezer import policies
from freezer.config import FreezeConfig
from freezer.cost import Costs
from freezer.decisions import Decisions
from freezer.enact import Enactor
from freezer.errors import FreezerError, UnitError
from freezer.events import Cause, FreezeEvent
from freezer.parallel import ParallelStrategy, Stopwatch, detect, refuse_unsupported
from freezer.plan import FreezePlan
from freezer.planner import PlannerState, check, check_honoured, make_plan
from freezer.policies.base import Policy, PolicyContext
from freezer.prepared import Prepared
from freezer.proxy import ModelProxy
from freezer.recorder import Recorder
from freezer.report import unit_rows
from freezer.units import Unit
from freezer.windows import MemoryWindows, WindowStore


class Freezer:
    """Watches a model's weights in training and freezes the units that have converged, on all ranks at one step.

    Args:
        model: the bare model, not compiled, not wrapped.
        optimizer: any optimizer over its parameters; it keeps all of them.
        config: settings; or name just a ``policy``.
        total_steps: planned optimizer steps of the whole run.
        windows: where snapshots go (rank 0 only), from a thread; a ring in memory by default. Complete after
            :meth:`close` or :meth:`state_dict`.
        policy: a policy object, or the name of one.
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
        policy: Policy | str | None = None,
        on_event: Callable[[FreezeEvent], None] | None = None,
        parallel: ParallelStrategy | None = None,
        directory: Path | None = None,
        samples: int | None = None,
    ) -> None:
        refuse_unsupported(model)
        if config is None:
            config = FreezeConfig(policy=policy) if isinstance(policy, str) else FreezeConfig()
        self.config = config
        self.schedule = config.schedule(total_steps)
        chosen = policy if policy is not None and not isinstance(policy, str) else policies.make(config)
        self._decides = chosen.name != "none"
        self.parallel = parallel or detect()
        self.windows: WindowStore = windows if windows is not None else MemoryWindows(config.window)
        self._recorder = Recorder(self.windows, optimizer, capacity=config.window, spend=self._spend)
        self._decisions = Decisions(chosen, self._recorder.submit)
        self.optimizer = optimizer
        self.on_event = on_event
        self.directory = directory
        self.samples = samples
        self.plan = FreezePlan()
        self.history: list[dict[str, Any]] = []
        self.costs = Costs()
        self.model = ModelProxy(model, self._around_training)
        self._bare = model
        self._step = 0
        self._planner = PlannerState()
        self._found: Prepared | None = None
        self._enactor: Enactor | None = None
        self._passes = 0.0
        group = optimizer.param_groups[0]
        self._initial_rate = float(group.get("initial_lr", group["lr"]))
        self._restored = False
        self._batch: tuple[Tensor, Tensor | None] | None = None

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
            found = self._found = Prepared(self._bare, self.optimizer, self.config, args, kwargs)
            self._recorder.use(found.sampler)
            check(self.plan, found.units, found.pinned)
            self.parallel.same("units, step or plan", [found.digest, self._step, self.plan.digest])
            self._enactor = Enactor(self._bare, self.model, found, self.parallel)
            self._enactor.first(self.plan)
        self.costs.spend("prepare", watch.seconds)
        if not self._restored:
            self._record()
            if self._decides and self.config.policy == "static":  # frozen from the start, by its definition
                self._begin_stage()
                self._conclude(0)
                check_honoured(self.config.options, self.plan, found.units)

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

    def _around_training(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AbstractContextManager[None]:
        self.prepare(*args, **kwargs)
        self._passes += self._prepared.passes(args, kwargs)
        return nullcontext()

    # -- one step ----------------------------------------------------------------------------------------------------

    def step(self) -> FreezeEvent | None:
        """Call once after each ``optimizer.step()``, on every rank.

        Returns:
            What changed, or ``None``.

        Raises:
            AgreementError: ranks hold different plans or are at different steps.
            PlanError, ConfigError: the policy's verdict must not be applied.
            VerificationError: the model is not in the state that the plan demands.
        """
        found = self._prepared
        self._step += 1
        self.costs.add_passes(self._passes, self.parallel.world_size, found.now, found.full, found.prefix)
        self.costs.add_reduced(*self.parallel.reduced(), found.full_bytes)
        self._passes = 0.0
        found.applier.refuse_late_use()
        event = None
        if self._decides and self.schedule.delay and self.schedule.takes_effect(self._step):
            event = self._conclude(self._step - self.schedule.delay)
        if self.schedule.is_snapshot(self._step):
            self._record()
        if self._decides and self.schedule.is_stage(self._step):
            self._begin_stage()
            if not self.schedule.delay:
                event = self._conclude(self._step)
        return event

    def _record(self) -> None:
        if self.parallel.rank != 0:
            return
        with Stopwatch() as watch:
            active = [u.name for u in self._prepared.used if u.name not in self.plan.frozen]
            self._recorder.record(self._step, active)
        self.costs.spend("snapshot", watch.seconds)

    def _spend(self, kind: str, seconds: float) -> None:
        self.costs.spend(kind, seconds)

    def _begin_stage(self) -> None:
        if self.parallel.rank != 0:
            return
        with Stopwatch() as watch:
            units = self._prepared.used
            now = partial(  # all but the windows, which are read in the worker, after this step's snapshot
                PolicyContext,
                step=self._step,
                total_steps=self.schedule.total_steps,
                units=units,
                frozen=frozenset(self.plan.frozen),
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                initial_learning_rate=self._initial_rate,
                config=self.config,
            )
            self._decisions.begin(lambda: now(windows=self._recorder.windows(u.name for u in units)), self._step)
        self.costs.spend("stage", watch.seconds)

    def _conclude(self, stage: int) -> FreezeEvent | None:
        """Rank 0 plans, everybody agrees, everybody applies."""
        found = self._prepared
        with Stopwatch() as watch:
            message: dict[str, Any] | FreezerError | None = None
            if self.parallel.rank == 0:
                try:
                    planned = make_plan(
                        self.plan,
                        self._planner,
                        self._decisions.take(stage),
                        found._survey,
                        self.config,
                        step=self._step,
                        total_steps=self._step + 10**9,  # to come: the real length; until then no change is refused
                        pinned=found.pinned,
                        calendar=getattr(self._decisions.policy, "calendar", False),
                    )
                    plan, self._planner = planned.plan, planned.state
                    message = {"plan": plan.to_dict(), "step": self._step, "planner": self._planner.to_dict()}
                except FreezerError as error:
                    message = error
            agreed = self.parallel.share(message)
            plan = FreezePlan.from_dict(agreed["plan"])
            self._planner = PlannerState.from_dict(agreed["planner"])
            # the plan before it is part of it: two ranks that froze different units must not go on
            self.parallel.same("the plan, or the step", [self._step, self.plan.digest, plan.digest])
            check(plan, found.units, found.pinned)
        self.costs.spend("agree", watch.seconds)
        before, self.plan = self.plan, plan
        if plan.digest == before.digest:
            return None
        return self._change(before, "policy")

    def _change(self, before: FreezePlan, cause: Cause) -> FreezeEvent:
        """Bring everything from the plan before to the one that holds now, and tell of it."""
        assert self._enactor is not None
        with Stopwatch() as watch:
            self._enactor.change(self.plan)
        self.costs.spend("apply", watch.seconds)
        event = FreezeEvent.between(before, self.plan, self.units, cause)
        self.history.append(event.to_dict())
        if self.on_event is not None:
            self.on_event(event)
        return event

    def rewrap(self) -> None:
        """Wrap anew, as a resume does; on all ranks, between two steps, when a checkpoint is made.

        DDP orders its buckets by the first backward pass that it sees, and with three or more ranks the order of the
        sums depends on it: without this, a run that goes on would differ in rounding from one that is resumed.
        """
        if self._enactor is not None and self.parallel.world_size > 2:
            self._enactor.change(self.plan)

    # -- reports and state -------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The freeze status document's part that the engine knows; JSON values."""
        units = self._found.units if self._found else []
        pinned = self._found.pinned if self._found else frozenset()
        filled = self._recorder.filled()
        return {
            "step": self._step,
            "plan_seq": self.plan.seq,
            "plan_hash": self.plan.digest,
            "policy": self._decisions.policy.name,
            "mode": self.config.mode,
            "units": unit_rows(units, self.plan, self._planner, self.history, pinned, filled),
            "savings": self.costs.savings(),
            "next_stage_at_step": self.schedule.next_stage(self._step) if self._decides else None,
        }

    def report(self) -> dict[str, Any]:
        """Costs and outcome of the run so far; measured figures and estimates apart. JSON values."""
        return {
            "steps": self._step,
            "total_steps": self.schedule.total_steps,
            "ranks": self.parallel.world_size,
            "policy": self._decisions.policy.name,
            "units": len(self._found.units) if self._found else 0,
            "frozen_units": list(self.plan.frozen),
            "history": list(self.history),
            **self.costs.report(),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact resume needs; plain values and bytes. Rank 0's serves every rank."""
        rank0 = self.parallel.rank == 0
        windows = self._recorder.dump() if rank0 else {}
        return {
            "version": 1,
            "step": self._step,
            "plan": self.plan.to_dict(),
            "planner": self._planner.to_dict(),
            "decisions": self._decisions.state_dict(),
            "windows": windows,
            "history": list(self.history),
            "costs": self.costs.to_dict(),
            "initial_rate": self._initial_rate,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`, before or after :meth:`prepare`; load model and optimizer first."""
        self._step = int(state["step"])
        self.plan = FreezePlan.from_dict(state["plan"])
        self._planner = PlannerState.from_dict(state["planner"])
        self._decisions.load_state_dict(state["decisions"])
        self.history = [dict(entry) for entry in state["history"]]
        self.costs = Costs.from_dict(state["costs"])
        self._initial_rate = float(state["initial_rate"])
        self._restored = True
        if self.parallel.rank == 0:
            self._recorder.restore(state["windows"])
        if self._found is not None and self._enactor is not None:
            check(self.plan, self._found.units, self._found.pinned)
            self._enactor.loaded(self.plan)

    def close(self) -> None:
        """Bring the last snapshots into the windows, end the threads. The model stays as it is, hooks included."""
        self._decisions.close()
        self._recorder.close()


def _int64(values: Tensor | Sequence[int]) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64, device="cpu")
