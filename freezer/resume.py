"""What a checkpoint holds of the freezer, and how a run goes on from it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from freezer.account import Account
from freezer.cost import Costs
from freezer.enact import Enactor
from freezer.plan import FreezePlan, PlannerState
from freezer.planner import check
from freezer.prepared import Prepared
from freezer.rates import UnitRates
from freezer.stages import Stages
from freezer.thaw import RateWatch


class Resumes(Stages):
    """The part of :class:`freezer.freezer.Freezer` that is saved and restored."""

    history: list[dict[str, Any]]
    _account: Account
    _enactor: Enactor | None
    _found: Prepared | None
    _initial_rates: list[float]
    _rate_watch: RateWatch
    _rates: UnitRates | None
    _restored: bool

    @abstractmethod
    def _retarget(self) -> None:
        """Tell the forward cache what is frozen."""

    def rewrap(self) -> None:
        """Wrap anew, as a resume does; on all ranks, between two steps, when a checkpoint is made.

        DDP orders its buckets by the first backward pass that it sees, and with three or more ranks the order of the
        sums depends on it: without this, a run that goes on would differ in rounding from one that is resumed.
        """
        if self._enactor is not None and self.parallel.world_size > 2:
            self._enactor.change(self.plan)

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
            "costs": self._account.note().to_dict(),
            "pinned": None if self._pinned is None else sorted(self._pinned),
            "rate_watch": self._rate_watch.state_dict(),
            "score_watch": self._score_watch.state_dict(),
            "initial_rates": self._initial_rates if self._rates is None else self._rates.initial,
            "initial_rate": self._initial_rate,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`, before or after :meth:`prepare`; load model and optimizer first."""
        self._step = int(state["step"])
        self.plan = FreezePlan.from_dict(state["plan"])
        self._planner = PlannerState.from_dict(state["planner"])
        self._decisions.load_state_dict(state["decisions"])
        self.history = [dict(entry) for entry in state["history"]]
        self._account.restore(Costs.from_dict(state["costs"]))
        pinned = state.get("pinned")
        self._pinned = None if pinned is None else frozenset(pinned)
        if "rate_watch" in state:  # not in checkpoints of earlier versions
            self._rate_watch.load_state_dict(state["rate_watch"])
            self._score_watch.load_state_dict(state["score_watch"])
        self._initial_rates = list(state.get("initial_rates") or self._initial_rates)
        if self._rates is not None:
            self._rates.initial = list(self._initial_rates)
        self._initial_rate = float(state["initial_rate"])
        self._restored = self._step > 0 or bool(state["windows"])  # one saved before the first pass begins anew
        if self.parallel.rank == 0:
            self._recorder.restore(state["windows"])
        if self._found is not None and self._enactor is not None:
            check(self.plan, self._found.units, self.pinned)
            self._enactor.loaded(self.plan)
            self._retarget()
