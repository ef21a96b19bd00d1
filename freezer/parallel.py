"""How ranks train together and agree: one strategy object for each way. Single process and DDP in this version."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import _broadcast_coalesced
from torch.nn.parallel import DistributedDataParallel

from freezer import errors
from freezer.errors import AgreementError, ConfigError, FreezerError
from freezer.proxy import COMPILED, ModelProxy
from freezer.reductions import LateUse, Reductions
from freezer.trace import clean_name, parameters_of

_BUCKET_BYTES = 250 * 1024 * 1024  # as DDP's own


class ParallelStrategy(Protocol):
    """What the freezer needs from a way of training in parallel."""

    rank: int
    world_size: int

    def wrap(self, model: nn.Module, *, first: bool, ignore: Collection[str] = ()) -> nn.Module:
        """The module to call in training. Called anew, on all ranks, whenever the set of trained parameters changed.

        Frozen parameters (``requires_grad`` off) cost nothing.

        Args:
            model: the bare model.
            first: whether ranks may still hold different weights: then rank 0's are sent to all.
            ignore: names of trainable parameters that take no part and of buffers that no longer change: not
                synchronised while training. The buffers are made rank 0's once, here.
        """

    def agree(self, message: dict[str, Any] | FreezerError | None, what: str, value: Any) -> dict[str, Any]:
        """Rank 0's message (JSON values) on every rank; rank 0's error is raised on every rank.

        Raises:
            AgreementError: on every rank, unless all pass an equal ``value``.
        """

    def together(self, what: str, error: FreezerError | None) -> None:
        """Raise on every rank where any of them has failed in what all did: its own error, or AgreementError."""

    def same(self, what: str, value: Any) -> None:
        """Raise :class:`AgreementError` on every rank unless all pass an equal value."""

    def reduced(self) -> tuple[int, int]:
        """Gradient bytes really reduced and synchronisations since the last call."""

    def refuse_unsynchronised(self) -> None:
        """Raise :class:`VerificationError` where a gradient is this rank's alone. Called after each step."""


class Single:
    """One process: nothing to wrap, nobody to agree with."""

    rank = 0
    world_size = 1

    def wrap(self, model: nn.Module, *, first: bool, ignore: Collection[str] = ()) -> nn.Module:  # noqa: ARG002
        return model

    def agree(self, message: dict[str, Any] | FreezerError | None, what: str, value: Any) -> dict[str, Any]:  # noqa: ARG002
        if isinstance(message, FreezerError):
            raise message
        return message or {}

    def together(self, what: str, error: FreezerError | None) -> None:  # noqa: ARG002
        if error is not None:
            raise error

    def same(self, what: str, value: Any) -> None:
        """Nobody else is there."""

    def reduced(self) -> tuple[int, int]:
        return 0, 0

    def refuse_unsynchronised(self) -> None:
        """Nothing needs to be: layers may come into use when they like."""


class DDP:
    """``DistributedDataParallel``, wrapped anew at every change: flipping ``requires_grad`` under a live wrapper leaves
    gradients unsynchronised, and ``find_unused_parameters`` would save no bytes.

    Plans travel over a gloo group of their own, because NCCL carries no CPU tensors.

    Args:
        process_group: ranks that train together, by default all; each of them makes this object.
        control_group: a gloo group of the same ranks, by default a new one.
        timeout: of the new one; by default that of ``process_group``.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        control_group: dist.ProcessGroup | None = None,
        *,
        timeout: timedelta | None = None,
    ) -> None:
        group = process_group or dist.group.WORLD
        if group is None:
            raise ConfigError("DDP needs torch.distributed.init_process_group() first")
        self.group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        self._ranks = dist.get_process_group_ranks(group)
        # named by its ranks: the default name counts groups, and two groups of other ranks would meet under one number
        self.control = control_group or dist.new_group(
            self._ranks, timeout=timeout or _timeout_of(group), backend="gloo", use_local_synchronization=True
        )
        self._reductions = Reductions()
        self._late_use = LateUse()

    def wrap(self, model: nn.Module, *, first: bool, ignore: Collection[str] = ()) -> nn.Module:
        """A fresh wrapper. Weights are sent from rank 0 only the first time; later they are equal already.

        Gradients are views of the buckets, which saves their copy: 42 MB of 847 at the peak with 22 million
        parameters. Bits are the same, since a frozen parameter has no gradient and so no view.
        """
        self._reductions.forget()  # else the old wrapper's buckets would be there until the new one's are
        names, tensors = _ignored(model, ignore, parameters=first)
        if tensors:  # batch statistics were each rank's own since the last broadcast
            _broadcast_coalesced(self.group, tensors, _BUCKET_BYTES, 0)
        # the attribute alone, for the time of the wrapping: DDP's setter also marks the tensors, for good
        model._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]
        try:
            wrapper = DistributedDataParallel(
                model, process_group=self.group, init_sync=first, gradient_as_bucket_view=True
            )
        finally:
            del model._ddp_params_and_buffers_to_ignore
        parameters = parameters_of(model)
        self._reductions.watch(wrapper, parameters)
        self._late_use.watch({n: p for n, p in parameters.items() if n in ignore})
        return wrapper

    def agree(self, message: dict[str, Any] | FreezerError | None, what: str, value: Any) -> dict[str, Any]:
        failed = isinstance(message, FreezerError)
        mine: dict[str, Any] = {"error": type(message).__name__, "text": str(message)} if failed else {"value": message}
        heard = self._gather([value, mine if self.rank == 0 else None])  # one exchange: each costs a wait
        if isinstance(message, FreezerError) and self.rank == 0:
            raise message
        answer: dict[str, Any] = heard[0][1]
        if "error" in answer:
            kind = getattr(errors, answer["error"], FreezerError)
            raise kind(f"rank 0: {answer['text']}")
        _compare(what, [theirs for theirs, _ in heard])
        return answer["value"] or {}

    def together(self, what: str, error: FreezerError | None) -> None:
        failed = {rank: text for rank, text in enumerate(self._gather(error and str(error))) if text is not None}
        if error is not None:
            raise error
        if failed:
            raise AgreementError(
                f"{what} failed: " + "; ".join(f"rank {rank}: {text}" for rank, text in failed.items())
            )

    def same(self, what: str, value: Any) -> None:
        _compare(what, self._gather(value))

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's value."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def reduced(self) -> tuple[int, int]:
        return self._reductions.take()

    def refuse_unsynchronised(self) -> None:
        self._late_use.refuse()
        self._reductions.refuse()


def _timeout_of(group: dist.ProcessGroup) -> timedelta:
    """How long its collectives wait. PyTorch tells it of the backend's options alone; ten minutes where it does not."""
    for device in (torch.device("cuda"), torch.device("cpu")):
        if device in getattr(group, "_device_types", ()):
            found = getattr(getattr(group._get_backend(device), "options", None), "_timeout", None)
            if isinstance(found, timedelta):
                return found
    return timedelta(minutes=10)


def _compare(what: str, values: Sequence[Any]) -> None:
    others = {rank: other for rank, other in enumerate(values) if other != values[0]}
    if others:
        said = "; ".join(f"rank {rank}: {other}" for rank, other in {0: values[0], **others}.items())
        raise AgreementError(f"ranks disagree about {what}: {said}")


def _ignored(model: nn.Module, chosen: Collection[str], *, parameters: bool) -> tuple[list[str], list[torch.Tensor]]:
    """What DDP is to pass over: every name of the chosen tensors, and the tensors that ranks may hold unequally.

    DDP asks by a name for each module, so that tied tensors have several, and what the root holds itself has two.
    """
    wanted = set(chosen)
    own = [(path, module) for path, module in model.named_modules(remove_duplicate=False)]
    held = [
        (f"{path}.{name}" if path else name, tensor)
        for path, module in own
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    ]
    tensors = {id(tensor): tensor for name, tensor in held if clean_name(name) in wanted}
    names = [name for name, tensor in held if id(tensor) in tensors]
    send = [t.detach() for t in tensors.values() if parameters or not isinstance(t, nn.Parameter)]
    return [*names, *(f".{name}" for name in names if "." not in name)], send


def detect() -> ParallelStrategy:
    """DDP where a process group of several ranks is up, else a single process."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return DDP()
    return Single()


def refuse_unsupported(model: nn.Module) -> None:
    """Raise for wrappers under which units cannot be frozen, and for models without weights.

    Raises:
        ConfigError: the model is compiled, sharded, or wrapped already, or its weights are not there yet; the message
            says what to do instead.
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ConfigError("the model has no parameter: nothing can be trained")
    lazy = next((name for name, p in parameters.items() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        raise ConfigError(
            f"{lazy} has no shape yet: run a batch through the model before you make the optimizer and the Freezer"
        )
    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, ModelProxy):
            raise ConfigError("this is the model of another Freezer: pass the bare model, not freezer.model")
        if kind == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ConfigError(COMPILED)
        if isinstance(module, DistributedDataParallel | nn.DataParallel):
            raise ConfigError(f"pass the bare model, not {kind}: the freezer wraps it, and again at every change")
        if kind == "FullyShardedDataParallel" or any(c.__name__ == "FSDPModule" for c in type(module).__mro__):
            raise ConfigError("FSDP is not supported yet: use DDP, or train in one process")


class Stopwatch:
    """``with Stopwatch() as watch: ...`` then ``watch.seconds``."""

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        self.seconds = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
