"""The pure parts of the engine's benchmark, and that what it compares with is the same training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.engine.__main__ import document
from benchmarks.engine.arms import Cut, CutInMemory, Full, Watched, frozen_config, names_of_prefix
from benchmarks.engine.events import _snapshot_seconds
from benchmarks.engine.memory import Bucket, left_over, moments_in_memory
from benchmarks.engine.report import Row, rows_of, table
from benchmarks.engine.timing import ratio, same_losses, spread, take_turns
from benchmarks.engine.workloads import BATCHES, NAMES, workload

CPU = torch.device("cpu")


def test_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 4.0]) == 1.0
    assert spread([1.0, 2.0, 3.0]) == [1.5, 2.5]
    assert spread([4.0]) == [4.0, 4.0]


def test_arms_take_turns_and_every_second_round_runs_backwards() -> None:
    seen: list[str] = []
    load = workload("cnn")
    data = load.data(0, CPU)

    class Silent(Full):
        def step(self, batch: Any) -> None:
            seen.append(self.name)
            self.count += 1

    arms = [Silent(nn.Linear(1, 1), name) for name in "ab"]
    blocks = take_turns(arms, data, steps=2, repeats=2, device=CPU)
    assert "".join(seen) == "aabbbbaa"
    assert {name: len(times) for name, times in blocks.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("name", NAMES)
def test_a_loop_cut_by_hand_trains_as_ours_does(name: str) -> None:
    load = workload(name)
    data = load.data(0, CPU)
    torch.manual_seed(0)
    models = [load.make().train() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    blocks = load.cuts[50]
    names = names_of_prefix(models[0], data.batch(0), blocks)
    ours = Watched("ours", models[0], frozen_config(names))
    by_hand = Cut("hand", models[1], load, blocks)
    in_memory = CutInMemory("memory", models[2], load, blocks, data)
    for number in range(3):
        for arm in (ours, by_hand, in_memory):
            arm.step(data.batch(number))
    ours.close()
    assert set(ours.freezer.plan.frozen) == set(names)
    assert same_losses(ours, by_hand) < 1e-5
    assert same_losses(ours, in_memory) < 1e-4
    assert ours.losses[0] != ours.losses[2]


def test_an_epoch_shows_each_sample_once_and_the_next_one_in_another_order() -> None:
    data = workload("cnn").data(0, CPU)
    epochs = [[i for n in range(BATCHES) for i in data.batch(e * BATCHES + n).ids.tolist()] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(len(data.labels)))
    assert epochs[0] != epochs[1]


def test_a_snapshot_counts_where_it_is_taken_and_where_the_update_waits_for_it() -> None:
    rows = [(1.0, 0.5)] * 20
    for number in (3, 7, 11, 15):
        rows[number] = (1.0, 0.75)
        rows[number + 1] = (1.25, 0.5)
    taken, waited = _snapshot_seconds(rows, 4)
    assert taken == [0.25, 0.25]  # the first two start threads
    assert waited == [0.25, 0.25]


def test_gradients_left_over_are_whole_buckets_or_the_frozen_part_of_a_shared_one() -> None:
    shared, alone = torch.zeros(10), torch.zeros(6)
    before = Bucket.of([shared[:4], shared[4:6], alone[:3]])
    assert left_over(before, Bucket.of([shared[6:]])) == 4 * 6 + 4 * 6
    del alone
    assert left_over(before, Bucket.of([shared[6:]])) == 4 * 6
    del shared
    assert left_over(before, []) == 0


def test_moments_in_a_mapped_file_are_not_in_training_memory(tmp_path: Any) -> None:
    parameter = nn.Parameter(torch.zeros(8))
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    parameter.grad = torch.ones(8)
    optimizer.step()
    assert moments_in_memory(optimizer, [parameter]) == 32
    mapped = torch.from_file(str(tmp_path / "m"), shared=True, size=8)
    optimizer.state[parameter]["momentum_buffer"] = mapped
    assert moments_in_memory(optimizer, [parameter]) == 0


@pytest.mark.parametrize(
    ("row", "ok"),
    [
        (Row("a", 1.02, 1.02), True),
        (Row("a", 1.0201, 1.02), False),
        (Row("a", 1.0004, 1.0, exact=True), True),
        (Row("a", 0.99, 1.0, exact=True), False),
        (Row("a", 5.0), None),
        (Row("a", None, 1.05, more={"why": "refused"}), False),
        (Row("a", None, 1.0, more={"applies": False}), None),
    ],
)
def test_a_bound_is_met_or_not(row: Row, ok: bool | None) -> None:
    assert row.ok is ok


def raw() -> dict[str, dict[str, Any]]:
    held = {"parameters": 10, "gradients": 10, "moments": 20, "activations": 100}
    free = {"parameters": 10, "gradients": 0, "moments": 0, "activations": 0}
    arms = {"freezer": {"before": held, "after": free}}
    arms |= {arm: {"before": held, "after": held} for arm in ("in place", "re-wrapped")}
    blocks = {name: [1.0, 1.0] for name in ("full", "frozen 50", "cut 50", "in place", "re-wrapped")}
    return {
        "attached": {"cnn": {"blocks": {"plain": [1.0, 1.0], "attached": [1.0, 1.5]}}},
        "prefix": {"cnn": {"blocks": blocks, "ideal": {"50": 0.6}, "bytes": {"50": None}}},
        "cached": {"cnn": {"states": {"50": ["refused", "no room"]}, "blocks": {}}},
        "event": {"cnn": {"seconds": {"own": [0.1], "wall": [0.4], "next": [0.0], "step": [0.2, 0.2]}}},
        "snapshot": {"all": {"units": 160, "taken": [0.0005], "waited": [-0.1], "synchronised": None}},
        "memory": {"cnn": {"arms": arms}},
    }


def test_rows_from_samples() -> None:
    rows = {row.measure: row for row in rows_of(raw())}
    assert (rows["cnn: attached, nothing frozen / without"].value, rows["cnn: freeze event / full step"].value) == (
        1.25,
        2.0,  # the worse of the two clocks
    )
    assert rows["cnn: prefix of 50 % cached / suffix alone on tensors in RAM"].ok is False
    assert rows["cnn: all-reduce bytes with 50 % frozen / active"].ok is None
    assert rows["snapshot of 160 units, ms on the critical path"].value == pytest.approx(0.5)
    assert rows["cnn: memory of frozen units / their parameters"].ok is True
    assert rows["cnn: Composer's rule, memory of frozen units / their parameters"].value == 14.0
    text = table(list(rows.values()))
    assert "the cache is refused: no room" in text
    assert "(ideal 0.60)" in text


def test_the_document_lists_every_measure_and_takes_notes_in() -> None:
    rows = rows_of(raw())
    missed = "cnn: freeze event / full step"
    made = document(rows, raw(), {missed: "twice the bound: the disk"}, command="c")
    assert [set(entry) for entry in made["measures"]] == [{"measure", "value", "bound", "ok"}] * len(rows)
    assert next(b for b in made["beside"] if b["measure"] == missed)["notes"] == "twice the bound: the disk"
