"""Plain attributes of modules (a temperature, the active adapter, a mask): whether they are what they were."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from freezer.cache.fingerprint import bits_of
from freezer.untouched import INTERNAL

Form = tuple[Any, ...]
"""A value by what it is: equal forms, equal values. Holds addresses of objects, which must be kept alive meanwhile."""
_SCALARS = (bool, int, float, complex, str, bytes, type(None), Enum)
_NAMES = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_DEPTH = 4
_LEAVES = 512


def plain(value: Any) -> bool:
    """Whether a value is told from others by its type and its text alone."""
    return isinstance(value, (*_SCALARS, *_NAMES))


class Attributes:
    """Plain attributes of modules as they were when they were last looked at.

    Numbers, texts, tensors and collections of these go by value, and so do objects that hold nothing else
    (configurations, name spaces); other objects go by identity, and collections of more than 512 values too.

    Args:
        modules: by path.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = dict(modules)
        self._looks: dict[str, _Look] = {}
        self.refresh()

    def only(self, paths: Iterable[str]) -> Attributes:
        """Those of some of the modules, as they were when all were looked at."""
        some = object.__new__(Attributes)
        some._modules = {path: self._modules[path] for path in paths}
        some._looks = {path: self._looks[path] for path in some._modules}
        some._arrange()
        return some

    @property
    def still(self) -> bool:
        """Whether all are what they were. Cheap: comparing the very same objects takes no time; others are read."""
        try:
            for own, count, fetch, values in self._own:
                if len(own) != count or fetch(own) != values:
                    return not self.changed()
            for held, parts in self._sequences:
                if tuple(held) != parts:
                    return not self.changed()
            for table, keys, parts in self._tables:
                if tuple(table) != keys or tuple(table.values()) != parts:
                    return not self.changed()
            if [t._version for t in self._tensors] == self._versions:
                return True
        except Exception:  # an attribute is gone, or another tensor is there, of which == makes a tensor
            pass
        return not self.changed()

    def changed(self) -> list[tuple[str, str]]:
        """Path and name of each that is not what it was, or was not there, or is gone. Where none is, the objects that
        are there now are the ones to look at from here on."""
        looks = _looks(self._modules)
        found = []
        for path, look in looks.items():
            was, now = self._looks[path].forms, look.forms
            found += [(path, name) for name in dict.fromkeys((*was, *now)) if was.get(name) != now.get(name)]
        if not found:
            self._looks = looks
            self._arrange()
        return found

    def refresh(self) -> None:
        """What they are now is what counts from here on."""
        self._looks = _looks(self._modules)
        self._arrange()

    @property
    def text(self) -> str:
        """All values; equal as long as :attr:`still` holds."""
        return repr([(path, look.forms) for path, look in self._looks.items()])

    def _arrange(self) -> None:
        """Lists of what :attr:`still` goes through, each object once."""
        self._own = []
        for path, look in self._looks.items():
            own, names = vars(self._modules[path]), tuple(look.values)
            names = names * 2 if len(names) == 1 else names  # of one name itemgetter makes no tuple
            fetch: Callable[[Any], tuple[Any, ...]] = itemgetter(*names) if names else _nothing
            self._own.append((own, look.count, fetch, tuple(look.values[name] for name in names)))
        inner = {id(value): value for look in self._looks.values() for value in look.inner}
        self._tensors = [value for value in inner.values() if isinstance(value, Tensor)]
        self._versions = [tensor._version for tensor in self._tensors]
        tables = [value for value in inner.values() if isinstance(value, dict)]
        self._tables = [(held, tuple(held), tuple(held.values())) for held in tables]
        rest = [value for value in inner.values() if not isinstance(value, Tensor | dict)]
        self._sequences = [(held, tuple(held)) for held in rest]


def _looks(modules: Mapping[str, nn.Module]) -> dict[str, _Look]:
    known: dict[int, tuple[Form | None, list[Any]]] = {}
    return {path: _Look(module, known) for path, module in modules.items()}


class _Look:
    """One module's attributes. Everything whose address is noted is held.

    Args:
        known: forms of objects that several modules share, such as a configuration.
    """

    def __init__(self, module: nn.Module, known: dict[int, tuple[Form | None, list[Any]]]) -> None:
        own = vars(module)
        self.count = len(own)
        self.values = {name: value for name, value in own.items() if name not in INTERNAL}
        self.inner: list[Any] = []
        self.held: list[Any] = []
        self._known = known
        self._left = 0
        self.forms = {name: self._form(value) for name, value in self.values.items()}
        self._known = {}

    def _form(self, value: Any) -> Form:
        if plain(value):
            return plain_form(value)
        self._left = _LEAVES
        inner: list[Any] = []
        form = self._by_value(value, inner, _DEPTH)
        if form is None:
            return self._by_identity(value)
        self.inner += inner
        return form

    def _by_identity(self, value: Any) -> Form:
        self.held.append(value)
        return type(value).__qualname__, id(value), len(value) if isinstance(value, list | dict | set | deque) else None

    def _by_value(self, value: Any, inner: list[Any], depth: int) -> Form | None:
        """``None`` for what is too large."""
        self._left -= 1
        if plain(value):
            return plain_form(value)
        if isinstance(value, Tensor):
            if value.is_inference() or value.requires_grad:  # of what is trained, nothing can be kept anyway
                return self._by_identity(value)
            inner.append(value)
            return _bits(value)
        if isinstance(value, nn.Module) or depth == 0:
            return self._by_identity(value)
        if isinstance(value, dict):
            return self._parts(value, [*value, *value.values()], inner, depth)
        if isinstance(value, list | tuple | set | frozenset | deque):
            return self._parts(value, value, inner, depth)
        if not _is_record(value):
            return self._by_identity(value)
        if id(value) not in self._known:
            self.held.append(value)
            parts: list[Any] = []
            fields = vars(value)
            form = self._parts(fields, [*fields, *fields.values()], parts, depth, type(value).__qualname__)
            self._known[id(value)] = form, parts
        form, parts = self._known[id(value)]
        inner += parts
        return form

    def _parts(self, value: Any, parts: Collection[Any], inner: list[Any], depth: int, kind: str = "") -> Form | None:
        if len(parts) > self._left:
            return None
        if not (isinstance(value, tuple | frozenset) and all(map(plain, value))):
            inner.append(value)
        forms = [self._by_value(part, inner, depth - 1) for part in parts]
        return None if None in forms else (kind or type(value).__qualname__, *forms)


def plain_form(value: Any) -> Form:
    """Of a plain value: 1, 1.0 and True are three."""
    return type(value).__qualname__, repr(value)


def _is_record(value: Any) -> bool:
    """Whether an object of the user's holds nothing but plain values, as configurations do."""
    fields = getattr(value, "__dict__", None)
    if type(fields) is not dict or not fields or callable(value):
        return False
    return all(_simple(part, _DEPTH) for part in fields.values())


def _simple(value: Any, depth: int) -> bool:
    if plain(value) or isinstance(value, Tensor):
        return True
    if isinstance(value, dict | list | tuple | set | frozenset | deque):
        return depth > 0 and all(_simple(v, depth - 1) for v in (value.values() if isinstance(value, dict) else value))
    return depth == _DEPTH and not isinstance(value, nn.Module) and _is_record(value)


def _bits(value: Tensor) -> Form:
    kind = ("Tensor", tuple(value.shape), str(value.dtype), str(value.device))
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return (*kind, id(value), value._version)
    return (*kind, int(bits_of(value)))


def _nothing(_: Any) -> tuple[Any, ...]:
    return ()
