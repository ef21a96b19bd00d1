"""The module that a training loop calls: stable while the wrapper inside is rebuilt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from freezer.errors import ConfigError

_OWN = frozenset({*vars(nn.Module()), "module", "_around_training", "_local", "_inner"})

COMPILED = "torch.compile is not supported yet: pass the model before compiling it, and call freezer.model as it is"


class ModelProxy(nn.Module):
    """Stands for the user's model. Parameters, buffers, state dict and attributes are the bare model's, and their names
    have no prefix. Of modules it has one, the bare model as ``module``: walk through those of ``freezer.model.module``.

    Passes without gradients go to the bare model, so that rank 0 can evaluate alone.
    """

    def __init__(
        self,
        model: nn.Module,
        around_training: Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[None]],
    ) -> None:
        """``around_training`` is called with the arguments of each training pass, which runs in what it returns."""
        super().__init__()
        self.module = model
        self._around_training = around_training
        self._local = False
        self._inner: nn.Module
        self.use(model)

    def use(self, inner: nn.Module) -> None:
        """Call ``inner`` in training from now on."""
        # outside of the module tree: a DDP wrapper holds the model too, and would double every name
        object.__setattr__(self, "_inner", inner)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """Of the bare model, as averaged weights want it: a copy is nobody's to freeze."""
        return copy.deepcopy(self.module, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        """A file holds the bare model, and nothing of the freezer."""
        return next, (iter([self.module]),)

    def __setattr__(self, name: str, value: Any) -> None:
        """On the bare model, where it is looked up and where the model's own code finds it."""
        if name in _OWN or hasattr(nn.Module, name):
            super().__setattr__(name, value)
        else:
            setattr(self.module, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            raise ConfigError(COMPILED)
        if not torch.is_grad_enabled():
            return self.module(*args, **kwargs)
        with self._around_training(args, kwargs):  # the wrapper inside may be another one from here on
            if self._local and isinstance(self._inner, DistributedDataParallel):
                with self._inner.no_sync():  # what counts for DDP is the forward pass
                    return self._inner(*args, **kwargs)
            return self._inner(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """DDP's ``no_sync()`` for gradient accumulation; does nothing in a single process.

        A flag of the proxy's own, because the wrapper may not be there before the first pass inside.
        """
        before, self._local = self._local, True
        try:
            yield
        finally:
            self._local = before

    def train(self, mode: bool = True) -> ModelProxy:
        self.training = mode
        self.module.train(mode)
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        return self.module.named_buffers(prefix, recurse, remove_duplicate)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.module.load_state_dict(state_dict, strict, assign)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def batch_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Values in the first tensor of a call: how two batches are compared in size. At least 1."""
    first = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
    return max(1, first.numel()) if first is not None else 1
