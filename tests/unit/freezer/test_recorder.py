"""Snapshots beside training: which thread does what, of which step the values are, in what order, what fails how."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from freezer import recorder as module
from freezer.errors import FreezerError, UnitError
from freezer.recorder import Recorder
from freezer.trajectory import Sampler
from freezer.units import Unit, discover
from freezer.windows import MemoryWindows

MAIN = threading.get_ident()


class Watched(Sampler):
    """Notes the thread that gathers; ``pause`` runs before each gathering."""

    def __init__(self, units: Sequence[Unit], model: nn.Module) -> None:
        super().__init__(units, model, 16, seed=0)
        self.threads: list[int] = []
        self.pause: Callable[[], object] = int

    def gather(self, names: Sequence[str], out: Tensor) -> None:
        self.threads.append(threading.get_ident())
        self.pause()
        super().gather(names, out)


class Store(MemoryWindows):
    def __init__(self) -> None:
        super().__init__(3)
        self.threads: list[int] = []
        self.error: Exception | None = None

    def append(self, step: int, values: Mapping[str, bytes]) -> None:
        self.threads.append(threading.get_ident())
        error, self.error = self.error, None
        if error is not None:
            raise error
        super().append(step, values)


class World:
    """One layer whose weights are all equal, and grow by one in each step: a snapshot's values are its step."""

    def __init__(self, store: MemoryWindows | None = None) -> None:
        self.model = nn.Linear(4, 8, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1.0)
        self.sampler = Watched(discover(nn.Sequential(self.model), (torch.randn(1, 4),), {}, "layer"), self._named())
        self.store = store or Store()
        self.waits: list[tuple[str, float]] = []
        self.recorder = Recorder(self.store, self.optimizer, capacity=3, spend=self._spend)
        self.recorder.use(self.sampler)

    def _named(self) -> nn.Module:
        return nn.Sequential(self.model)

    def _spend(self, kind: str, seconds: float) -> None:
        self.waits.append((kind, seconds))

    def step(self) -> None:
        self.model.weight.grad = torch.full_like(self.model.weight, -1.0)
        self.optimizer.step()

    def seen(self) -> list[tuple[int, set[float]]]:
        ring = self.recorder.windows(["0"])["0"]
        return [(s.step, set(torch.frombuffer(bytearray(s.values), dtype=torch.float32).tolist())) for s in ring]


@contextmanager
def world(store: MemoryWindows | None = None) -> Iterator[World]:
    made = World(store)
    try:
        yield made
    finally:
        made.recorder.close()


def test_the_training_thread_gathers_only_until_the_weights_can_be_trusted() -> None:
    with world() as w:
        threads = threading.active_count()
        for step in range(4):
            w.recorder.record(step, ["0"])
            w.step()
        w.recorder.drain()
        assert w.sampler.threads[0] == MAIN, "nobody knows yet whether the weights change outside of the optimizer"
        assert len(set(w.sampler.threads[1:])) == 1
        assert len(set(w.store.threads)) == 1  # type: ignore[attr-defined]
        assert not {MAIN, w.sampler.threads[1]} & set(w.store.threads)  # type: ignore[attr-defined]
        assert w.seen() == [(1, {1.0}), (2, {2.0}), (3, {3.0})]
        assert threading.active_count() == threads + 2
    assert threading.active_count() == threads


def test_an_optimizer_step_right_after_a_snapshot_waits_for_it() -> None:
    with world() as w:
        w.recorder.record(0, ["0"])
        w.step()
        stepping, stepped = threading.Event(), threading.Event()
        w.optimizer._optimizer_step_pre_hooks.clear()  # so that the gate opens first, in the same step
        w.optimizer.register_step_pre_hook(lambda *_: stepping.set())
        w.optimizer.register_step_pre_hook(w.recorder._before_step)
        w.optimizer.register_step_post_hook(lambda *_: stepped.set())
        # gathers only inside of the step, and gives a step that does not wait every chance to be over before
        w.sampler.pause = lambda: (stepping.wait(30), stepped.wait(0.3))
        w.recorder.record(1, ["0"])
        w.step()
        assert w.sampler.threads[-1] != MAIN
        assert stepped.is_set()
        assert w.seen()[-1] == (1, {1.0})
        assert [kind for kind, _ in w.waits] == ["snapshot_wait"]
        assert w.waits[0][1] > 0.1


def test_steps_without_a_snapshot_do_nothing() -> None:
    with world() as w:
        w.recorder.record(0, ["0"])
        for _ in range(3):
            w.step()
        w.recorder.record(3, ["0"])
        assert w.seen() == [(0, {0.0}), (3, {3.0})]
        assert len(w.sampler.threads) == 2


def test_a_slow_policy_holds_up_neither_gathering_nor_training_and_sees_its_own_stage() -> None:
    with world() as w:
        gate = threading.Event()
        w.recorder.record(0, ["0"])
        w.step()
        w.recorder.record(1, ["0"])
        slow = w.recorder.submit(lambda: (gate.wait(30), w.seen())[1])
        w.step()
        w.recorder.record(2, ["0"])
        later = w.recorder.submit(w.seen)
        w.step()  # waits for the gathering of step 2, not for the policy
        assert not slow.done()
        assert w.recorder.filled() == {"0": 3}
        gate.set()
        assert slow.result(30) == [(0, {0.0}), (1, {1.0})]
        assert later.result(30) == [(0, {0.0}), (1, {1.0}), (2, {2.0})]


def test_weights_that_change_outside_of_the_optimizer_are_read_at_once() -> None:
    with world() as w:
        for step in range(3):
            w.recorder.record(step, ["0"])
            with torch.no_grad():
                w.model.weight.mul_(1.0)
            w.step()
        assert set(w.sampler.threads) == {MAIN}
        assert w.seen() == [(0, {0.0}), (1, {1.0}), (2, {2.0})]


@pytest.mark.parametrize("where", ["step", "drain", "record"])
def test_a_snapshot_that_weights_were_written_under_is_left_out_and_later_ones_are_read_at_once(where: str) -> None:
    with world() as w:
        w.recorder.record(0, ["0"])
        w.step()
        written = threading.Event()
        w.sampler.pause = lambda: written.wait(30)
        w.recorder.record(1, ["0"])
        assert w.recorder.filled() == {"0": 2}
        with torch.no_grad():
            w.model.weight.add_(1.0)
        written.set()
        calls = {"step": w.step, "drain": w.recorder.drain, "record": lambda: w.recorder.record(2, ["0"])}
        with pytest.warns(RuntimeWarning, match="it is left out"):
            calls[where]()
        seen = [] if where != "record" else [(2, {2.0})]
        assert w.seen() == [(0, {0.0}), *seen]
        assert w.recorder.filled() == {"0": 1 + len(seen)}
        gathered = len(w.sampler.threads)
        for step in range(3, 7):
            w.recorder.record(step, ["0"])
            w.step()
        assert set(w.sampler.threads[gathered:]) == {MAIN}
        assert [step for step, _ in w.seen()] == [4, 5, 6]


def test_writes_between_two_steps_end_the_trust_for_good_even_if_no_snapshot_suffered() -> None:
    with world() as w:
        for step in range(8):
            w.recorder.record(step, ["0"])
            if step == 3:
                w.recorder._settle()
                with torch.no_grad():
                    w.model.weight.mul_(1.0)
            w.step()
        assert [thread == MAIN for thread in w.sampler.threads] == [True, False, False, False, *[True] * 4]


def test_an_optimizer_that_no_longer_steps_is_not_waited_for() -> None:
    with world() as w:
        w.recorder.record(0, ["0"])
        w.step()
        for step in (1, 2, 3):
            w.recorder.record(step, ["0"])
            w.recorder.drain()
            w.model.weight.data.fill_(step + 1.0)  # training by something else than this optimizer
        assert w.sampler.threads[2:] == [MAIN, MAIN]
        assert w.seen()[-1] == (3, {3.0})


def test_an_optimizer_without_hooks() -> None:
    class Bare:
        """Only an object: it changes nothing and calls nobody."""

    w = World()
    recorder = Recorder(w.store, Bare(), capacity=3, spend=w._spend)  # type: ignore[arg-type]
    recorder.use(w.sampler)
    recorder.record(0, ["0"])
    w.step()
    recorder.record(1, ["0"])
    assert set(w.sampler.threads) == {MAIN}
    assert [s.step for s in recorder.windows(["0"])["0"]] == [0, 1]
    recorder.close()


class TestFailures:
    def test_of_the_store_come_as_what_they_are_with_the_next_call_and_stay(self) -> None:
        store = Store()
        with world(store) as w:
            w.recorder.record(0, ["0"])
            w.recorder.drain()
            w.step()
            gate = threading.Event()
            w.recorder.submit(lambda: gate.wait(30))
            w.recorder.record(1, ["0"])
            w.step()
            w.recorder.record(2, ["0"])  # would go well, but the window has a hole now
            judged = w.recorder.submit(lambda: w.recorder.windows(["0"]))
            store.error = OSError("no room")
            gate.set()
            with pytest.raises(OSError, match="no room"):  # nobody decides on a window with a hole
                judged.result(30)
            for call in (lambda: w.recorder.record(3, ["0"]), w.recorder.drain, w.recorder.dump, w.seen):
                with pytest.raises(OSError, match="no room"):
                    call()
            assert [s.step for s in store.read("0")] == [0]
            w.recorder.restore({"0": [(5, b"\0" * 64)]})
            assert w.seen() == [(5, {0.0})]

    def test_nobody_was_told_of_are_told_by_close(self) -> None:
        store = Store()
        store.error = OSError("no room")
        w = World(store)
        w.recorder.record(0, ["0"])
        with pytest.raises(OSError, match="no room"):
            w.recorder.close()

    def test_unknown_units_and_no_sampler(self) -> None:
        with world() as w, pytest.raises(UnitError, match="nonsense"):
            w.recorder.record(0, ["nonsense"])
        empty = Recorder(MemoryWindows(1), w.optimizer, capacity=1, spend=w._spend)
        with pytest.raises(FreezerError, match="no sampler"):
            empty.record(0, ["0"])


def test_counts_and_windows_survive_a_checkpoint() -> None:
    with world() as one, world() as two:
        for step in range(5):
            one.recorder.record(step, ["0"])
            one.recorder.record(step, ["0"])  # a repeated step replaces
            assert one.recorder.filled() == {"0": min(3, step + 1)}
            one.step()
        dumped = one.recorder.dump()
        assert [step for step, _ in dumped["0"]] == [2, 3, 4]
        two.recorder.record(9, ["0"])  # of an attempt that the checkpoint undoes
        two.recorder.restore(dumped)
        assert two.recorder.dump() == dumped
        assert two.recorder.filled() == {"0": 3}
        two.recorder.record(5, ["0"])
        assert [step for step, _ in two.recorder.dump()["0"]] == [3, 4, 5]


def test_nothing_to_record_is_no_work() -> None:
    with world() as w:
        threads = threading.active_count()
        w.recorder.record(0, [])
        w.recorder.drain()
        assert w.recorder.dump() == {}
        assert w.recorder.filled() == {}
        assert threading.active_count() == threads


def test_a_backlog_is_bounded_by_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG", 2)
    with world() as w:
        gate = threading.Event()
        w.recorder.submit(lambda: gate.wait(30))
        for step in (0, 1):
            w.recorder.record(step, ["0"])
        third = threading.Thread(target=w.recorder.record, args=(2, ["0"]))
        third.start()
        third.join(0.1)
        assert third.is_alive()
        gate.set()
        third.join(30)
        assert [step for step, _ in w.seen()] == [0, 1, 2]
