"""``smartfrz compare`` without training: what it refuses, tables remade from a folder, a service that is named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import Result
from comparisons import definition, record, report

from client.compare import Folder, expand, parse
from client.compare.private import need_packages, ranks_of
from workers.packages import DataPackageMissing

if TYPE_CHECKING:
    from client.conftest import Service


def test_tables_are_remade_from_the_folder(smartfrz: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = Folder(out)
    (out / "definition.json").write_text(json.dumps(definition()))
    for run in expand(parse(definition())):
        folder.write(run, record(run, report(0.9, 100.0)))
    done = smartfrz("compare", "--report-only", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "10 of 10 runs" in done.output
    assert (out / "comparison.md").exists()
    bounds = tmp_path / "bounds.json"
    bounds.write_text(json.dumps(definition(bounds=[{"arm": "linear", "measure": "flops_ratio", "at_most": 0.5}])))
    with folder.owned():  # as by a comparison that is running
        again = smartfrz("compare", str(bounds), "--report-only", "--out", str(out))
        refused = smartfrz("compare", str(bounds), "--out", str(out))
    assert refused.exit_code == 1
    assert "another comparison is running" in refused.output
    assert "not met: digits: linear: flops_ratio (at most) 0.5: 1.0" in again.output
    assert json.loads((out / "definition.json").read_text()) == definition(), "report-only changes no definition"


def test_what_is_done_already_needs_no_service(smartfrz: Callable[..., Result], tmp_path: Path) -> None:
    file, out = tmp_path / "c.json", tmp_path / "out"
    file.write_text(json.dumps(definition()))
    folder = Folder(out)
    for run in expand(parse(definition())):
        folder.write(run, record(run, report(0.9, 100.0)))
    done = smartfrz("--url", "http://127.0.0.1:9", "compare", str(file), "--out", str(out))
    assert done.exit_code == 0, done.output


def test_choosing_on_training_data_keeps_to_a_folder_of_its_own(
    smartfrz: Callable[..., Result], tmp_path: Path
) -> None:
    file, out = tmp_path / "c.json", tmp_path / "out"
    file.write_text(json.dumps(definition()))
    choosing = definition(test_from="train")
    for run in expand(parse(choosing)):
        Folder(out).write(run, record(run, report(0.9, 100.0)))
    command = ("--url", "http://127.0.0.1:9", "compare", str(file), "--out", str(out))
    done = smartfrz(*command, "--test-from", "train")
    assert done.exit_code == 0, done.output
    assert json.loads((out / "definition.json").read_text()) == choosing
    assert "Accuracy on training data that was held out; the test split was not used." in (
        (out / "comparison.md").read_text()
    )
    before = {path.name: path.read_bytes() for path in Folder(out).runs.glob("*.json")}
    page = (out / "comparison.md").read_bytes()
    for more in ((), ("--report-only",)):
        refused = smartfrz(*command, *more)
        assert refused.exit_code == 2
        assert "holds runs of --test-from train: name another folder with --out" in refused.output
    assert (out / "comparison.md").read_bytes() == page
    assert {path.name: path.read_bytes() for path in Folder(out).runs.glob("*.json")} == before


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is no JSON"), (json.dumps(definition(seeds=[])), "/seeds: must be a list")]
)
def test_a_wrong_file_is_the_users_to_correct(
    smartfrz: Callable[..., Result], tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "c.json").write_text(text)
    done = smartfrz("compare", str(tmp_path / "c.json"), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert says in done.output


def test_without_file_or_folder_it_says_so(smartfrz: Callable[..., Result], tmp_path: Path) -> None:
    assert smartfrz("compare").exit_code == 2
    done = smartfrz("compare", "--report-only", "--out", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "there is no comparison" in done.output


def test_missing_data_is_told_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(DataPackageMissing, match="smartfrz data fetch mnist5k"):
        need_packages(expand(parse(definition())), tmp_path)


def test_a_stack_has_room_for_the_ranks_of_a_run() -> None:
    document = definition(seeds=[0], arms={"full": {}})
    assert [ranks_of(run) for run in expand(parse(document))] == [1]
    document["workloads"]["digits"]["resources"]["processes_per_worker"] = 2
    assert [ranks_of(run) for run in expand(parse(document))] == [2]


def test_a_running_service_does_the_work_where_one_is_named(
    smartfrz: Callable[..., Result], service: Service, in_background: Callable[..., Any], tmp_path: Path
) -> None:
    file, out = tmp_path / "c.json", tmp_path / "out"
    file.write_text(json.dumps(definition(seeds=[0], arms={"full": {}, "linear": {"freeze.policy": "linear"}})))

    def worker() -> None:
        left, deadline = 2, time.monotonic() + 20
        with service.client() as client:
            while left and time.monotonic() < deadline:
                for job in client.list(status=["queued"])["data"]:
                    files = service.attempt(job["id"], service.start(job["id"]))
                    (files.artifacts / "report.json").write_text(json.dumps(report(0.9, 100.0)))
                    service.finish(job["id"])
                    left -= 1

    in_background(worker)
    done = smartfrz("compare", str(file), "--out", str(out), "--workers", "2")
    assert done.exit_code == 0, done.output
    assert f"jobs go to {service.url}" in done.output
    assert "2 of 2 runs" in done.output
    assert not (out / "home").exists()


def test_a_failed_run_is_an_exit_code_and_tables_are_written(
    smartfrz: Callable[..., Result], service: Service, in_background: Callable[..., Any], tmp_path: Path
) -> None:
    file, out = tmp_path / "c.json", tmp_path / "out"
    file.write_text(json.dumps(definition(seeds=[0], arms={"full": {}})))

    def worker() -> None:
        deadline = time.monotonic() + 20
        with service.client() as client:
            while not (queued := client.list(status=["queued"])["data"]) and time.monotonic() < deadline:
                pass
        service.start(queued[0]["id"])
        service.finish(queued[0]["id"], "failed", reason="host_oom", message="too little memory")

    in_background(worker)
    done = smartfrz("compare", str(file), "--out", str(out))
    assert done.exit_code == 1
    assert "digits/full/0 failed: host_oom: too little memory" in done.output
    assert "host_oom" in (out / "comparison.md").read_text()
