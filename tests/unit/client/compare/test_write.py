"""What is left in the folder: JSON, tables, plots; and a clear word where matplotlib is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from comparisons import definition, report, results

from client.compare import PlotsMissing, analyse, expand, parse, write

HISTORY = [(40, ["stem"], []), (80, ["block.0"], [])]


def document(**changes: Any) -> dict[str, Any]:
    comparison = parse(definition(**changes))
    runs = expand(comparison)
    reports = {
        (run.arm, run.seed): report(
            0.9 + 0.001 * run.seed,
            60.0 if run.arm == "linear" else 100.0,
            history=HISTORY if run.arm == "linear" else (),
        )
        for run in runs
    }
    return analyse(comparison, runs, results(runs, reports))


def test_everything_is_written_and_the_page_shows_the_plots(tmp_path: Path) -> None:
    bounds = [{"arm": "linear", "measure": "flops_speedup", "at_least": 2.5}]
    files = write(document(bounds=bounds), tmp_path)
    assert [path.name for path in files] == [
        "comparison.json",
        "comparison.md",
        "digits-accuracy.png",
        "digits-timeline.png",
    ]
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in files[2:])
    json.loads(files[0].read_text())
    page = files[1].read_text()
    assert "![digits](digits-timeline.png)" in page
    assert (
        "| linear | 2 | 90.05 | 0.00 [0.00, 0.00] | 0.600 | 1.000 (0:10) |  | 2 of 4 |  | 0.00 [0.00, 0.00] |" in page
    )
    assert "| digits: linear: flops_speedup (at least) | 1.6667 | 2.5 | no |" in page


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(document(), tmp_path / name)
    for name in ("comparison.json", "comparison.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_plot_that_has_nothing_to_show_any_more_goes(tmp_path: Path) -> None:
    write(document(), tmp_path)
    write(document(arms={"full": {}}), tmp_path)
    assert not (tmp_path / "digits-timeline.png").exists()
    assert (tmp_path / "digits-accuracy.png").exists()


def test_without_matplotlib_all_but_the_plots_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotsMissing, match=r"pip install 'smartfrz\[report\]'"):
        write(document(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "comparison.md"]
    assert "![" not in (tmp_path / "comparison.md").read_text()


def test_a_difference_of_fewer_seeds_says_of_how_many(tmp_path: Path) -> None:
    comparison = parse(definition())
    runs = expand(comparison)
    reports = {(run.arm, run.seed): report(0.9, 100.0) for run in runs}
    del reports["full", 0]
    write(analyse(comparison, runs, results(runs, reports)), tmp_path)
    assert "| linear | 2 | 90.00 | 0.00 (n = 1) |" in (tmp_path / "comparison.md").read_text()
