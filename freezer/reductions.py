"""Which gradients DDP reduces, and which slip past it: DDP itself notices none of these, and ranks drift apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freezer.errors import VerificationError

_FIRST_STEPS = 3


class Reductions:
    """Counts what DDP reduces. A communication hook would see each bucket, and cost a full step on a small model 1 %.

    The reducer tells the bytes of its buckets. After a forward pass of the wrapper, DDP reduces one gradient of each
    parameter; any further one, as of a pass through the bare model, stays the rank's own. So it does under
    ``no_sync()``, until the next pass without it reduces the sum.

    Hooks on all parameters would cost a small model several per cent of a step: in the first steps of each wrapper
    all are watched, later the first one alone.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.syncs = 0
        self._hooks: list[Any] = []
        self._passes = 0  # of the wrapper, synchronised ones
        self._local = False  # the last one was not
        self._astray: dict[str, nn.Parameter] = {}  # whose newest gradient is this rank's alone
        self._look = 0

    def forget(self) -> None:
        """Count no more, and let go of the wrapper that was counted for."""
        self._keep(0)

    def watch(self, wrapper: DistributedDataParallel, parameters: Mapping[str, nn.Parameter]) -> None:
        """Count for this wrapper from now on; the one before has been forgotten.

        Args:
            parameters: by name; those that the wrapper passes over are passed over here too.
        """
        size = int(wrapper._get_ddp_logging_data()["total_parameter_size_bytes"])  # type: ignore[no-untyped-call]
        reduced = {id(p) for p in wrapper._module_parameters if p.requires_grad}
        trained = {name: p for name, p in parameters.items() if id(p) in reduced}
        self._passes, self._local, self._look = 0, False, _FIRST_STEPS
        self._astray.clear()
        for name, parameter in trained.items():
            note = self._noter(name, parameter, 0 if self._hooks else size)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(note))  # type: ignore[no-untyped-call]
        wrapper.register_forward_hook(self._note_pass)

    def _note_pass(self, wrapper: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        self._local = not wrapper.require_forward_param_sync  # as this pass has just set it: off under no_sync()
        self._passes += not self._local

    def _noter(self, name: str, parameter: nn.Parameter, size: int) -> Callable[[torch.Tensor], None]:
        """The hook of one parameter; that of the first has a size, and counts."""
        seen = 0  # the pass that its last gradient was reduced for

        def note(_: torch.Tensor) -> None:
            nonlocal seen
            if self._local:
                return
            if seen == self._passes:
                self._astray[name] = parameter
                return
            seen = self._passes
            self._astray.pop(name, None)
            if size:
                self.bytes += size
                self.syncs += 1

        return note

    def _keep(self, count: int) -> None:
        for hook in self._hooks[count:]:
            hook.remove()
        del self._hooks[count:]

    def take(self) -> tuple[int, int]:
        """Bytes and synchronisations since the last call. Call it after each step: of what comes then, no gradient of
        before is left."""
        self._astray.clear()
        if self._look:
            self._look -= 1
            if not self._look:
                self._keep(1)
        seen, self.bytes, self.syncs = (self.bytes, self.syncs), 0, 0
        return seen

    def refuse(self) -> None:
        """Raises where a parameter's newest gradient is this rank's alone. One that was thrown away does no harm."""
        name = next((name for name, p in self._astray.items() if p.grad is not None), None)
        if name is not None:
            raise VerificationError(
                f"{name} has a gradient that DDP did not synchronise: the ranks would drift apart. Only passes through "
                "freezer.model(...) are synchronised, each for one backward pass; calling the bare model, or a method "
                "as in freezer.model.encode(...), is not. Give the model a forward that does it "
                "(forward(..., only='image')) and call freezer.model(...) before each backward pass"
            )


class LateUse:
    """Notices gradients of parameters that DDP was told to pass over, which would drift apart on the ranks in silence.

    By hooks, because after ``zero_grad()`` nobody can tell.
    """

    def __init__(self) -> None:
        self._hooks: list[Any] = []
        self._name: str | None = None

    def watch(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watch these, by name, from now on, and those before no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._note, name))  # type: ignore[no-untyped-call]
            for name, parameter in parameters.items()
            if parameter.requires_grad
        ]

    def _note(self, name: str, parameter: torch.Tensor) -> None:  # noqa: ARG002
        self._name = self._name or name

    def refuse(self) -> None:
        """Raises where one of them has had a gradient."""
        if self._name is not None:
            raise VerificationError(
                f"{self._name} took no part when the model was surveyed but has a gradient now, which DDP does not "
                "synchronise: call freezer.prepare() before the first step, in training mode and with a batch that "
                "uses every layer, and let every later batch use them too"
            )
