"""The two ways people freeze today, as arms: in place under ``find_unused_parameters``, and with a new wrapper."""

from __future__ import annotations

import time
from collections.abc import Collection

from torch import nn

from benchmarks.engine.arms import Loop, Reduced, adamw, wrapped
from freezer.trace import clean_name


class Rival(Loop):
    """Trains in full for ``freeze_after`` steps, then freezes the parameters of a set, its own way.

    Attributes:
        seconds: what the freezing itself took; ``None`` before it.
    """

    def __init__(
        self, name: str, model: nn.Module, frozen: Collection[str], freeze_after: int = 2, count: bool = False
    ) -> None:
        self.bare = model
        self.reduced = Reduced() if count else None
        self.frozen = [p for n, p in model.named_parameters() if clean_name(n) in frozen]
        self.freeze_after = freeze_after
        self.seconds: float | None = None
        super().__init__(name, self.first_wrapper(), adamw(model.parameters()))

    def first_wrapper(self) -> nn.Module:
        return wrapped(self.bare, reduced=self.reduced)

    def sent(self) -> int:
        """Bytes given to all-reduce so far, where they are counted."""
        return self.reduced.bytes if self.reduced is not None else 0

    def is_frozen(self) -> bool:
        return self.seconds is not None

    def freeze(self) -> None:
        raise NotImplementedError

    def maybe_freeze(self) -> None:
        if self.count + 1 == self.freeze_after:
            started = time.perf_counter()
            self.freeze()
            self.seconds = time.perf_counter() - started


class InPlace(Rival):
    """As Composer's LayerFreezing does: flags flipped in place, parameters taken out of the optimizer's groups.

    Composer makes DDP with ``find_unused_parameters=True`` for it, and puts no module into eval mode.
    """

    def before_zeroing(self) -> None:  # Composer zeroes at the start of a batch, and freezes at the end of one
        self.maybe_freeze()

    def first_wrapper(self) -> nn.Module:
        return wrapped(self.bare, reduced=self.reduced, find_unused_parameters=True)

    def freeze(self) -> None:
        gone = {id(p) for p in self.frozen}
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in gone]
        for parameter in self.frozen:
            parameter.requires_grad = False


class Rewrapped(Rival):
    """Flags flipped, then a new wrapper made as the first one was, broadcast of all parameters included."""

    def after(self) -> None:
        self.maybe_freeze()

    def freeze(self) -> None:
        self.model = self.bare  # the old wrapper's hooks go with it
        for parameter in self.frozen:
            parameter.requires_grad = False
        self.model = wrapped(self.bare, reduced=self.reduced)
