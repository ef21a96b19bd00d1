"""What the figures show, read from the figures."""

from __future__ import annotations

from typing import Any

import pytest
from comparisons import UNITS, definition, report, results

from client.compare import analyse, expand, parse
from client.compare.plots import accuracy_figure, short_names, timeline_figure

ACCURACY = {"full": 0.9, "shorter-0.5": 0.3, "shorter-0.75": 0.88, "early-stop": 0.87, "linear": 0.895}
RIVALS = ("early-stop", "linear")
FLOPS = {"full": 100.0, "shorter-0.5": 50.0, "shorter-0.75": 75.0, "early-stop": 80.0, "linear": 60.0}


def document(
    missing: tuple[tuple[str, int], ...] = (),
    accuracy: dict[str, float] = ACCURACY,
    elsewhere: tuple[tuple[str, int], ...] = (),
) -> dict[str, Any]:
    """``elsewhere``: runs that were measured in another place than the rest."""
    comparison = parse(definition())
    runs = expand(comparison)
    reports = {
        (run.arm, run.seed): report(
            accuracy[run.arm] + run.seed / 100,
            FLOPS[run.arm],
            history=[(40, UNITS[:2], [])] if run.arm == "linear" else (),
        )
        for run in runs
        if (run.arm, run.seed) not in missing
    }
    found = results(runs, reports)
    for run in runs:
        if (run.arm, run.seed) in elsewhere:
            found[run.id]["measured_in"] = run.id
    return analyse(comparison, runs, found)


def test_every_arm_is_named_once_and_axes_have_labels() -> None:
    figure = accuracy_figure(document(missing=(("linear", 1),)), "digits")
    assert figure is not None
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == ["early-stop", "full", "full, schedule shortened", "linear (n = 1)"]
    flops, wall = figure.axes
    assert flops.get_ylabel() == "test accuracy, %"
    assert flops.get_xlabel() == "training FLOPs / full training's (estimated)"
    assert wall.get_xlabel() == "wall time / full training's (measured)"


def test_wall_times_that_cannot_be_compared_are_told_or_left_out() -> None:
    one = accuracy_figure(document(elsewhere=(("linear", 1),)), "digits")
    none = accuracy_figure(document(elsewhere=tuple((arm, seed) for arm in ACCURACY for seed in (0, 1))), "digits")
    assert one is not None
    assert none is not None
    assert one.axes[1].get_xlabel() == "wall time / full training's (measured, of some seeds alone)"
    assert len(none.axes) == 1, "a panel with nothing but full training shows nothing"
    none.canvas.draw()  # where texts end is known once they are drawn
    assert none._suptitle.get_window_extent().x0 >= 0, "the title is not cut off"  # type: ignore[attr-defined]


def test_a_panel_of_wall_times_that_lacks_most_arms_is_left_out() -> None:
    most = accuracy_figure(document(elsewhere=(("linear", 0), ("linear", 1))), "digits")
    assert most is not None
    assert len(most.axes) == 2, "one of two has them"
    rows = document(elsewhere=(("linear", 0), ("linear", 1)))
    early = next(row for row in rows["table"] if row["arm"] == "linear")
    rows["table"].append({**early, "arm": "another"})
    few = accuracy_figure(rows, "digits")
    assert few is not None
    assert len(few.axes) == 1, "one of three has them"


def test_an_arm_with_a_note_has_the_dagger_of_the_table() -> None:
    noted = document()
    next(row for row in noted["table"] if row["arm"] == "linear")["notes"] = ["on another machine than full training"]
    figure = accuracy_figure(noted, "digits")
    assert figure is not None
    assert "linear †" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "notes under the table" in figure.get_suptitle()
    plain = accuracy_figure(document(), "digits")
    assert plain is not None
    assert "†" not in plain.get_suptitle()


def test_a_long_bar_does_not_squeeze_the_rest() -> None:
    wild = document(accuracy={**ACCURACY, "shorter-0.5": 0.88})
    early = next(row for row in wild["table"] if row["arm"] == "early-stop")
    early["accuracy_difference"] = {**early["accuracy_difference"], "low": -0.5, "high": 0.5}
    figure = accuracy_figure(wild, "digits")
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert 80 < low < 88 < high < 95


def test_an_arm_far_behind_is_told_at_the_lower_edge() -> None:
    figure = accuracy_figure(document(accuracy=ACCURACY | {"early-stop": 0.7}), "digits")
    assert figure is not None
    assert figure.axes[0].get_ylim()[0] > 85
    assert [text.get_text() for text in figure.axes[0].texts] == ["↓ 70.5"]
    assert "early-stop" in [text.get_text() for text in figure.legends[0].get_texts()]
    all_far = accuracy_figure(document(accuracy=ACCURACY | {"early-stop": 0.7, "linear": 0.75}), "digits")
    assert all_far is not None
    assert not all_far.axes[0].texts, "nothing else is there to look at"
    assert all_far.axes[0].get_ylim()[0] < 70.5


def test_wall_times_of_full_training_and_its_shortened_forms_alone_make_no_panel() -> None:
    figure = accuracy_figure(document(elsewhere=tuple((arm, seed) for arm in RIVALS for seed in (0, 1))), "digits")
    assert figure is not None
    assert len(figure.axes) == 1


def test_an_arm_with_fewer_seeds_stands_as_far_from_full_training_as_it_was_seed_by_seed() -> None:
    figure = accuracy_figure(document(missing=(("linear", 1),)), "digits")
    assert figure is not None
    handles, labels = figure.axes[0].get_legend_handles_labels()
    at = {label: float(handle.lines[0].get_ydata()[0]) for handle, label in zip(handles, labels, strict=True)
          if hasattr(handle, "lines")}  # fmt: skip
    full = 100 * (ACCURACY["full"] + 0.5 / 100)
    assert at["linear (n = 1)"] == pytest.approx(full - 0.5), "its one seed was half a point below full training's"
    assert at["early-stop"] == pytest.approx(full - 3.0)


def test_the_title_counts_the_seeds_that_were_run() -> None:
    figure = accuracy_figure(document(missing=tuple((arm, 1) for arm in ACCURACY)), "digits")
    assert figure is not None
    assert figure.get_suptitle().startswith("digits: means over 1 seed")
    assert not figure.get_suptitle().startswith("digits: means over 1 seeds")
    assert "linear" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_much_shortened_training_does_not_squeeze_the_rest() -> None:
    figure = accuracy_figure(document(), "digits")
    near = accuracy_figure(document(accuracy=ACCURACY | {"shorter-0.5": 0.87}), "digits")
    assert figure is not None
    assert near is not None
    assert 80 < figure.axes[0].get_ylim()[0] < 87
    assert near.axes[0].get_ylim()[0] < 87.5, "the whole curve is shown where there is room"


def test_a_panel_for_each_arm_that_froze() -> None:
    figure = timeline_figure(document(), "digits")
    assert figure is not None
    panel, bar = figure.axes
    assert panel.get_title() == "linear"
    assert [label.get_text() for label in panel.get_yticklabels()] == UNITS
    assert bar.get_ylabel() == "share of the seeds that have it frozen"


def test_without_runs_there_is_no_figure() -> None:
    comparison = parse(definition())
    empty = analyse(comparison, expand(comparison), {})
    assert accuracy_figure(empty, "digits") is None
    assert timeline_figure(empty, "digits") is None


def test_long_names_lose_whole_parts_in_front() -> None:
    assert short_names(["stem", "encoder.encoder.layer.0.attention.output.dense", "x" * 50]) == [
        "stem",
        "…layer.0.attention.output.dense",
        "…" + "x" * 35,
    ]
