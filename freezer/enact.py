"""Bring everything that depends on the plan to it: the model, its wrapper, the price of a step, the forward cache."""

from __future__ import annotations

from torch import nn

from freezer.errors import FreezerError
from freezer.parallel import ParallelStrategy
from freezer.plan import FreezePlan
from freezer.prepared import Prepared
from freezer.proxy import ModelProxy
from freezer.trained import Trained


class Enactor:
    """The one place from which a plan takes effect. Every rank calls it between the same two steps.

    Args:
        model: the bare model.
        proxy: what the training loop calls; it is pointed to the wrapper of the day.
        found: the surveyed model and who applies plans to it.
        parallel: wraps the model.
    """

    def __init__(self, model: nn.Module, proxy: ModelProxy, found: Prepared, parallel: ParallelStrategy) -> None:
        self._model = model
        self._proxy = proxy
        self._found = found
        self._parallel = parallel
        self._trained = Trained(model, found.units)

    def first(self, plan: FreezePlan) -> None:
        """The first time in this process: rank 0's weights are sent to the others."""
        self._apply(plan, first=True)
        self._found.applier.remember()

    def change(self, plan: FreezePlan) -> FreezePlan:
        """From one plan to the next.

        Returns:
            The plan, which is in force now.

        Raises:
            VerificationError: the model is not in the state that the plan demands.
            AgreementError: on another rank it is not.
        """
        self._apply(plan, first=False)
        return plan

    def loaded(self, plan: FreezePlan) -> None:
        """After other weights were loaded into the model: nothing that was noted of the old ones counts."""
        self._found.applier.forget()
        self._apply(plan, first=False)

    def follow(self) -> bool:
        """Before a pass: wrap anew if the user has switched layers that are no units on or off; whether that is so.

        Raises:
            VerificationError: a frozen unit was made trainable.
            AgreementError: other layers were switched on another rank.
        """
        changed = self._trained.changed(self._found.applier.frozen)
        if changed:
            self._parallel.same("the layers that were switched on or off", changed)
            self._wrap(first=False)
        return bool(changed)

    def _apply(self, plan: FreezePlan, *, first: bool) -> None:
        applier = self._found.applier
        self._proxy.use(self._model)  # the old wrapper's hooks must be gone before the new one's come
        error: FreezerError | None = None
        try:
            applier.apply(plan.frozen)
        except FreezerError as failed:
            error = failed
        self._parallel.together("the change of frozen units", error)  # nobody waits in vain for one that gave up
        self._wrap(first=first)
        applier.remember_buffers()
        self._found.price(plan.frozen)

    def _wrap(self, *, first: bool) -> None:
        applier = self._found.applier
        self._proxy.use(self._model)
        if first or self._trained.any:  # DDP wraps nothing that is not trained at all
            ignore = [*applier.unused, *applier.still_buffers]
            self._proxy.use(self._parallel.wrap(self._model, first=first, ignore=ignore))
        self._trained.note()
