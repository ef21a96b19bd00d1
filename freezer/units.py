"""A model as an ordered list of freezable units: execution order, tied weights, norms attached, FLOPs measured.

One forward pass under ``no_grad`` in eval mode is recorded by hooks; everything after that is pure work on the record.
Random state, buffers and training flags are as before afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from freezer.config import UnitGrain
from freezer.errors import UnitError
from freezer.trace import Call, Record, clean_name, is_drop, is_norm, owner_of, parameters_of, record_forward

__all__ = ["Site", "Survey", "Unit", "clean_name", "discover", "survey"]


@dataclass(frozen=True, slots=True)
class Site:
    """One execution of one weighted module, or of a trained norm that runs before the layer whose unit it is in.

    Attributes:
        order: when it ran, in events of the recorded pass; only comparisons mean something.
        input_order: when the first execution ran that was fed the same tensor: its input needs a gradient only
            when something before *that* is trained (parallel branches: q, k, v; shortcuts).
        flops: forward FLOPs of products with weights.
        weight_flops: FLOPs of the weight gradient, 0 where the user froze the weights from the start.
        pair_flops: forward FLOPs without weights (attention), at or after this site and before the next.
        pair_backward: FLOPs of the gradients of those.
        module: path of the module.
    """

    order: int
    input_order: int
    flops: int = 0
    weight_flops: int = 0
    pair_flops: int = 0
    pair_backward: int = 0
    module: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is frozen as one.

    Attributes:
        name: path of its first weighted module, or the block's name; free of wrappers.
        index: position in execution order, from 0.
        block: name of the block that it belongs to.
        params: names of its trainable parameters (tied names included, each once by their first name).
        modules: paths of its modules: weighted ones, and the norms and dropouts run right after them; those run
            before them where they stand in the same container and the layer before does not (pre-norm blocks).
        flops: forward FLOPs for the batch of the recorded pass, weightless work after it included.
        activation_bytes: bytes of its modules' outputs for that batch.
        parameters: count of its trainable values.
        used: whether any of its modules ran in eval mode; a unit that did not comes last and is never frozen, even
            where it runs in training alone or in later batches: it is trained as it would be without a freezer.
        sites: where it ran.
    """

    name: str
    index: int
    block: str
    params: tuple[str, ...]
    modules: tuple[str, ...]
    flops: int
    activation_bytes: int
    parameters: int
    used: bool = True
    sites: tuple[Site, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Survey:
    """All units, and the executions of modules that the user froze from the start (no units, but they cost)."""

    units: list[Unit]
    fixed: tuple[Site, ...]

    def without(self, names: Collection[str]) -> Survey:
        """The same, with these units fixed."""
        kept = [unit for unit in self.units if unit.name not in names]
        sites = [replace(site, weight_flops=0) for u in self.units if u.name in names for site in u.sites]
        return Survey([replace(unit, index=i) for i, unit in enumerate(kept)], (*self.fixed, *sites))


def discover(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], grain: UnitGrain) -> list[Unit]:
    """The model's freezable units in execution order. See :func:`survey`."""
    return survey(model, args, kwargs, grain).units


def survey(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], grain: UnitGrain) -> Survey:
    """Run ``model(*args, **kwargs)`` once and group its parameters into units.

    Raises:
        UnitError: nothing in the model can be trained, or two of its layers go by one name.
    """
    _refuse_namesakes(model)
    record = record_forward(model, args, kwargs)
    params = parameters_of(model)
    names = {id(p): n for n, p in params.items()}
    groups = _attach(model, record, names)
    groups = _tie(model, groups)
    blocks = block_names(model, [(g.name, g.is_embedding) for g in groups if g.used])
    for group in groups:
        group.block = blocks.get(group.name, group.name)
    if grain == "block":
        groups = _merge(groups, lambda g: g.block, rename=True)
    groups.sort(key=lambda g: (not g.used, g.first))

    units: list[Unit] = []
    fixed: list[Site] = []
    for group in groups:
        trainable = [n for n in group.params if params[n].requires_grad]
        if not any(params[n].numel() for n in trainable):  # without values there is nothing to record or to freeze
            fixed.extend(group.sites)
            continue
        units.append(
            Unit(
                name=group.name,
                index=len(units),
                block=group.block,
                params=tuple(trainable),
                modules=tuple(group.modules),
                flops=sum(s.flops + s.pair_flops for s in group.sites),
                activation_bytes=group.activation_bytes,
                parameters=sum(params[n].numel() for n in trainable),
                used=group.used,
                sites=tuple(group.sites),
            )
        )
    if not units:
        raise UnitError("the model has no trainable parameter: nothing can be frozen")
    return Survey(units, tuple(fixed))


def _refuse_namesakes(model: nn.Module) -> None:
    """A child called as a wrapper calls what it wraps has no name of its own here; what is inside must stay apart."""
    known: dict[str, str] = {}
    for path, module in model.named_modules():
        own = any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
        if not (own or is_drop(module)):
            continue
        first = known.setdefault(clean_name(path), path)
        if first != path:
            raise UnitError(
                f"the layers {first or 'root'!r} and {path!r} would both be called {clean_name(path) or 'root'!r}, "
                "because 'module' and '_orig_mod' are taken for wrappers: call that child something else"
            )


@dataclass(slots=True)
class _Group:
    name: str
    first: float
    params: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    activation_bytes: int = 0
    used: bool = True
    is_embedding: bool = False
    block: str = ""


def _attach(model: nn.Module, record: Record, names: Mapping[int, str]) -> list[_Group]:
    """One group for each weighted module, with its norms, dropouts and the parameters of containers around it."""
    modules = {clean_name(n): m for n, m in model.named_modules()}
    inner: dict[str, list[str]] = {}  # spectral norm iterates in training mode: it sleeps with its layer
    for path in modules:
        if owner_of(path) != path:
            inner.setdefault(owner_of(path), []).append(path)
    executed = {call.path for call in record.calls}
    leaves = {p for p in record.owners if p in executed and not _runs_inside(p, record.owners, executed)}
    weighted = {p for p in leaves if not is_norm(modules[p])}
    if not weighted:  # a model of norms alone: they are its layers
        weighted = set(leaves)

    groups: dict[str, _Group] = {}
    waiting: list[Call] = []  # norms and dropouts since the last weighted execution
    before: list[tuple[float, str]] = []  # execution time and group of every weighted execution
    current: _Group | None = None
    settled: set[str] = set()  # norms that have their place

    def give(path: str, group: _Group) -> None:
        if path not in group.modules:
            group.modules += [path, *inner.get(path, ())]
        group.activation_bytes += record.output_bytes.get(path, 0) if path in leaves else 0
        for p in record.owners.get(path, ()):
            _add(group.params, names[id(p)])

    def fixed(group: _Group) -> bool:
        return not any(p.requires_grad for path in group.modules for p in record.owners.get(path, ()))

    for call in record.calls:
        if call.path in weighted:
            group = groups.get(call.path)
            if group is None:
                group = groups[call.path] = _Group(call.path or "root", first=call.order)
                group.is_embedding = isinstance(modules[call.path], nn.Embedding | nn.EmbeddingBag)
                give(call.path, group)
            for other in waiting:
                # behind what the user froze (the base of an adapter), a dropout serves what is trained
                tie = other.path not in record.owners and current is not None and fixed(current)
                if current is not None and not _closer(other.path, call.path, current.name, tie):
                    give(other.path, current)
                    continue
                give(other.path, group)
                if any(p.requires_grad for p in record.owners.get(other.path, ())):
                    group.sites.append(Site(other.time, other.time, module=other.path))
            waiting.clear()
            trained = any(p.requires_grad for p in record.owners[call.path] if p.dim() >= 2)
            group.sites.append(
                Site(
                    call.order,
                    call.input_order,
                    call.flops,
                    call.flops if trained else 0,
                    call.pair_flops,
                    round(call.pair_backward),
                    call.path,
                )
            )
            current = group
            before.append((call.time, call.path))
        elif is_drop(modules[call.path]) or call.path not in record.owners:
            waiting.append(call)  # without weights: it belongs to every unit that it serves
        elif call.path in leaves and call.path not in settled:  # run again: the first position counts
            settled.add(call.path)
            waiting.append(call)
    for other in waiting:
        if current is not None:
            give(other.path, current)

    for path, owner in record.owners.items():
        if path in leaves:
            continue
        home = _home(path, groups, before, record.entered.get(path))
        target = groups[home] if home is not None else None
        if target is None:
            target = groups[path] = _Group(path or "root", first=float("inf"), used=False)
        if path not in target.modules and path not in record.entered:
            target.modules.append(path)
        for parameter in owner:
            _add(target.params, names[id(parameter)])
    return list(groups.values())


def _closer(path: str, one: str, other: str, tie: bool) -> bool:
    """Whether ``path`` shares more containers with ``one`` than with ``other``; ``tie`` if as many."""
    here, there = _shared(path, one), _shared(path, other)
    return here > there or (tie and here == there)


def _shared(one: str, other: str) -> int:
    """How many containers, from the top, hold both."""
    count = 0
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def _runs_inside(path: str, owners: Iterable[str], executed: set[str]) -> bool:
    """Whether a module that owns parameters also ran others that do: then it is a container, not a layer."""
    prefix = f"{path}." if path else ""
    return any(other != path and other.startswith(prefix) and other in executed for other in owners)


def _home(
    path: str, groups: Mapping[str, _Group], before: list[tuple[float, str]], entered: float | None
) -> str | None:
    """The group that takes in parameters of a container, or of a module used without being called."""
    ancestor = path
    while "." in ancestor:  # multi-head attention reads out_proj's weight without calling it
        ancestor = ancestor.rsplit(".", 1)[0]
        if ancestor in groups and groups[ancestor].used:
            return ancestor
    if path and "" in groups and entered is None:
        return ""
    if entered is not None:
        return next((name for time, name in before if time >= entered), before[-1][1] if before else None)
    return next((name for _, name in before if name.startswith(f"{path}.")), None)


def _tie(model: nn.Module, groups: list[_Group]) -> list[_Group]:
    """Groups that share a parameter become one, at the first position."""
    shared: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for p in module.parameters(recurse=False):
            shared.setdefault(id(p), owner_of(clean_name(path)))
    home: dict[str, str] = {}
    by_param: dict[str, str] = {}
    for group in sorted(groups, key=lambda g: (not g.used, g.first)):
        key = next((by_param[p] for p in group.params if p in by_param), group.name)
        home[group.name] = key
        for p in group.params:
            by_param.setdefault(p, key)
    return _merge(groups, lambda g: home[g.name])


def _merge(groups: list[_Group], key: Any, rename: bool = False) -> list[_Group]:
    merged: dict[str, _Group] = {}
    for group in sorted(groups, key=lambda g: (not g.used, g.first)):
        name = key(group)
        into = merged.get(name)
        if into is None:
            merged[name] = group
            if rename:
                group.name = name
            continue
        for p in group.params:
            _add(into.params, p)
        for m in group.modules:
            _add(into.modules, m)
        into.sites.extend(group.sites)
        into.activation_bytes += group.activation_bytes
        into.is_embedding |= group.is_embedding
    return list(merged.values())


def block_names(model: nn.Module, layers: Sequence[tuple[str, bool]]) -> dict[str, str]:
    """Block of each layer, given as ``(path, is_embedding)`` in any order of a used layer.

    Blocks are the repeated children (two or more of one type) of a ``ModuleList`` or ``Sequential``; where such
    children are themselves sequences of repeated blocks, those inside count. Layers before the first block are
    ``embedding`` (if one of them is) or ``stem``, after the last ``head``; between blocks they join the one before.
    A model without repeated blocks has its top-level children as blocks.
    """
    found = _repeated(model, "")
    homes = [next((b for b in found if path == b or path.startswith(f"{b}.")), None) for path, _ in layers]
    if not any(homes):
        return {path: path.split(".", 1)[0] for path, _ in layers}
    first = next(i for i, home in enumerate(homes) if home)
    last = max(i for i, home in enumerate(homes) if home)
    front = "embedding" if any(embedding for _, embedding in layers[:first]) else "stem"
    result, block = {}, front
    for i, (path, _) in enumerate(layers):
        block = front if i < first else "head" if i > last else homes[i] or block
        result[path] = block
    return result


def _repeated(module: nn.Module, path: str) -> list[str]:
    blocks: list[str] = []
    for name, child in module.named_children():
        where = f"{path}.{name}" if path else name
        blocks.extend(_repeated_here(child, where))
    if isinstance(module, nn.Sequential) and not path:
        blocks = _repeated_here(module, path) or blocks
    return blocks


def _repeated_here(module: nn.Module, path: str) -> list[str]:
    """Blocks at or below ``module``."""
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return _repeated(module, path)
    children = [
        (f"{path}.{n}" if path else n, c) for n, c in module.named_children() if any(True for _ in c.parameters())
    ]
    types = [type(c) for _, c in children]
    blocks: list[str] = []
    for where, child in children:
        inner = _repeated_here(child, where) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        nested = [b for b in inner if "." in b and not _is_layer(child, where, b)]
        if nested:
            blocks.extend(nested)
        elif types.count(type(child)) >= 2:
            blocks.append(where)
        else:
            blocks.extend(_repeated(child, where))
    return blocks


def _is_layer(root: nn.Module, root_path: str, path: str) -> bool:
    """Whether the block found inside is a single layer: then the sequence around it is the better block."""
    inside = path[len(root_path) + 1 :]
    return not any(True for _ in root.get_submodule(inside).children())


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
