"""What a checkpoint holds of the freezer, and how a run goes on from it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import nn

from freezer.account import Account
from freezer.cost import Costs
from freezer.enact import Enactor
from freezer.pins import Pins
from freezer.plan import FreezePlan, PlannerState
from freezer.planner import check
from freezer.prepared import Prepared
from freezer.proxy import ModelProxy
from freezer.rates import UnitRates
from freezer.stages import Stages
from freezer.surveyed import Surveyed
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
    _bare: nn.Module
    _known: Surveyed | None
    _restored: bool
    model: ModelProxy

    @abstractmethod
    def _retarget(self) -> None:
        """Tell the forward cache what is frozen."""

    @abstractmethod
    def _set_rates(self) -> None:
        """Give units rates of their own, where the policy has some."""

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
        known = self._found.surveyed if self._found is not None else self._known
        return {
            "version": 1,
            "step": self._step,
            "plan": self.plan.to_dict(),
            "planner": self._planner.to_dict(),
            "decisions": self._decisions.state_dict(),
            "windows": windows,
            "history": list(self.history),
            "costs": self._account.note().to_dict(),
            "pinned": self._pins.to_dict(),
            "survey": known.to_dict() if known is not None else None,
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
        self._pins = Pins.from_state(state.get("pinned"))
        survey = state.get("survey")  # not in checkpoints of earlier versions
        self._known = Surveyed.from_dict(survey) if survey is not None else None
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
            if self._known is not None and self._found.adopt(self._known):
                self._enactor = Enactor(self._bare, self.model, self._found, self.parallel)
                self._recorder.use(self._found.sampler)
                if self._rates is not None:
                    self._rates.close()
                    self._set_rates()
            check(self.plan, self._found.units)
            self._enactor.loaded(self.plan)
            self._retarget()
            self._heed_new_pins()

    def _heed_new_pins(self) -> None:
        """Thaw what the settings of a resumed run pin and those that it was begun with did not."""
        frozen = [name for name in self.plan.frozen if name in self.pinned]
        if frozen:
            self._thaw(frozen, "command")
