"""Where a recorded pass can be cut: pure decisions over the record, latest cut first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from freezer.cache.tree import Call, Record, name_of


@dataclass(frozen=True, slots=True, eq=False)  # by identity: books look cuts up in every pass
class Cut:
    """The exit of one module call, before which nothing is trained.

    Attributes:
        path: module whose output is cached; ``nth`` counts its calls in one pass.
        position, exit: of the call, in the record.
        stubs: positions of the outermost calls that finished before, in order; replay skips these.
        real: those of ``stubs`` that own no weights and whose output is used behind the cut: they run for real.
        executed: paths of the modules with parameters of their own that ran before the cut and are skipped.
        whole: paths of modules of which nothing runs in a replay; ``live``: those of ``real``; ``open``: those that
            run around the cut.
    """

    path: str
    nth: int
    position: int
    exit: int
    stubs: tuple[int, ...]
    real: frozenset[int]
    executed: tuple[str, ...]
    whole: tuple[str, ...]
    live: tuple[str, ...]
    open: tuple[str, ...]


class Cuts:
    """The cuts that a record allows, the latest first, each made when it is asked for: a search seldom asks for many.

    Args:
        record: a pass as in training.
        own: for each module with parameters of its own, whether one of them is trained.

    Attributes:
        obstacle: what stands in the way of the earliest call that was looked at, for when no cut has been found.
    """

    def __init__(self, record: Record, own: Mapping[str, bool]) -> None:
        self._record = record
        self._own = own
        self._walls = sorted(record.obstacles)
        none = "no module before the trained ones feeds its output to the next one as it is"
        self.obstacle = self._walls[0][1] if self._walls else none

    def __iter__(self) -> Iterator[Cut]:
        record, own = self._record, self._own
        hot = _hot(record, own)
        for call in sorted(record.calls, key=lambda c: -c.exit):
            if call.exit < 0 or call.parent < 0 or not call.leaves:
                continue
            above = ancestors(record, call)
            reason = _blocked(call, above, hot, self._walls) or _unsteady(record, above)
            if reason is None and not (_feeds_next(record, call) or _before_trained(record, call, hot)):
                continue
            stubs, real = _finished(record, call, above), frozenset[int]()
            if reason is None:
                real, reason = _crossing(record, call, stubs, own)
            if reason is not None:
                self.obstacle = reason
                continue
            cut = _cut(record, call, above, stubs, real, own)
            reason = _restless(record, cut)
            if reason is not None:
                self.obstacle = reason
            elif cut.executed:
                yield cut


def cut_at(record: Record, own: Mapping[str, bool], path: str, nth: int) -> Cut | None:
    """The cut at the exit of a given call, known to be good."""
    call = next((c for c in record.calls if (c.path, c.nth) == (path, nth) and c.exit > 0), None)
    if call is None:
        return None
    above = ancestors(record, call)
    stubs = _finished(record, call, above)
    real, reason = _crossing(record, call, stubs, own)
    return None if reason else _cut(record, call, above, stubs, real, own)


def _hot(record: Record, own: Mapping[str, bool]) -> list[Call]:
    """Calls of modules that are trained themselves, or through modules inside that are used without being called."""
    called = {call.path for call in record.calls}
    trained: set[str] = set()
    for path, trains in own.items():
        home = path
        while home not in called and home:
            home = home.rpartition(".")[0]
        if trains:
            trained.add(home)
    return [call for call in record.calls if call.path in trained]


def ancestors(record: Record, call: Call) -> tuple[int, ...]:
    """Positions of the calls around this one, the innermost first."""
    above: list[int] = []
    while call.parent >= 0:
        above.append(call.parent)
        call = record.calls[call.parent]
    return tuple(above)


def _blocked(call: Call, above: tuple[int, ...], hot: list[Call], walls: list[tuple[int, str]]) -> str | None:
    for other in hot:
        if other.enter > call.exit:
            break
        if other.position not in above:
            return f"{name_of(other.path)} is trained and runs before every place where the pass could be cut"
    for time, sentence in walls:
        if time < call.exit:
            return sentence
    if call.needs_grad:  # parameters of a container around it, or inputs that need gradients
        return f"the output of {name_of(call.path)} needs gradients: something before it is still trained"
    return None


def _unsteady(record: Record, above: tuple[int, ...]) -> str | None:
    """What runs before the cut in a container around it may depend on the container's buffers."""
    around = next((record.calls[p] for p in above if record.calls[p].moved is not None), None)
    if around is None:
        return None
    return f"{name_of(around.path)}, around the cut, changes its buffer {around.moved!r} in each pass"


def _restless(record: Record, cut: Cut) -> str | None:
    """Values must not depend on attributes that change in each pass, and nobody would see those that are skipped."""
    later = {c.path for c in record.calls if c.enter > cut.exit}
    later -= {c.path for c in record.calls if c.enter < cut.exit}
    for path, name in sorted(record.moving):
        if not any(_inside(path, root) for root in later):
            return f"{name_of(path)} changes its attribute {name!r} in each pass"
    return None


def _feeds_next(record: Record, call: Call) -> bool:
    after = _after(record, call)
    return after is not None and bool(after.inputs & call.outputs)


def _before_trained(record: Record, call: Call, hot: list[Call]) -> bool:
    """Whether what comes next is trained: arithmetic in between (a mean over pixels) is run by a replay too."""
    after = _after(record, call)
    return after is not None and any(after.enter <= other.enter and other.exit <= after.exit for other in hot)


def _after(record: Record, call: Call) -> Call | None:
    return next((c for c in record.calls[call.position + 1 :] if c.parent == call.parent), None)


def _finished(record: Record, call: Call, above: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(c.position for c in record.calls[: call.position] if c.parent in above and 0 < c.exit < call.enter)


def _crossing(
    record: Record, call: Call, stubs: tuple[int, ...], own: Mapping[str, bool]
) -> tuple[frozenset[int], str | None]:
    """Skipped calls whose outputs are used behind the cut: to be run for real where they own no weights."""
    real: set[int] = set()
    later = [c for c in record.calls[call.position + 1 :] if c.enter > call.exit]
    for position in stubs:
        stub = record.calls[position]
        flows = stub.outputs - call.outputs
        user = next((c for c in later if c.inputs & flows), None) if flows else None
        if user is None:
            continue
        if any(_inside(path, stub.path) for path in own):
            return frozenset(), (
                f"the output of {name_of(stub.path)} flows around {name_of(call.path)} into {name_of(user.path)} "
                "(a skip connection across the cut)"
            )
        real.add(position)
    return frozenset(real), None


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}.")


def _cut(
    record: Record,
    call: Call,
    above: tuple[int, ...],
    stubs: tuple[int, ...],
    real: frozenset[int],
    own: Mapping[str, bool],
) -> Cut:
    whole = list(dict.fromkeys(record.calls[p].path for p in (*stubs, call.position) if p not in real))
    inner = [c.path for c in record.calls if c.enter < call.exit and c.exit <= call.exit and c.path in own]
    called = {c.path for c in record.calls}
    around = [record.calls[p].path for p in above]
    loose = _never_called(own, called, around, whole)
    skipped = [p for p in dict.fromkeys(inner) if p not in around]
    return Cut(
        call.path,
        call.nth,
        call.position,
        call.exit,
        stubs,
        real,
        tuple(skipped),
        tuple(whole),
        tuple(dict.fromkeys(record.calls[p].path for p in sorted(real))),
        (*around, *loose),
    )


def _never_called(
    own: Mapping[str, bool], called: Collection[str], around: Collection[str], whole: Collection[str]
) -> Iterator[str]:
    """Modules with weights that containers around the cut may use without calling them."""
    for path in own:
        if path not in called and not any(_inside(path, w) for w in whole) and path not in around:
            yield path
