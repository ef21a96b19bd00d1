"""What surrounds a private stack: one owner a folder, the right key, files that are whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client.files import FolderInUse, sole_owner, write_json
from client.private_stack import Stack, StackError, admin_key, forget_job


@pytest.mark.parametrize(("failing", "in_vain"), [([], False), (["store", "api", "w1"], False), (["w1", "w2"], True)])
def test_waiting_is_in_vain_only_when_no_worker_stays_up(tmp_path: Path, failing: list[str], in_vain: bool) -> None:
    stack = Stack(cast(Any, None), tmp_path, cast(Any, SimpleNamespace(workers=("w1", "w2"), failing=failing)))
    if in_vain:
        with pytest.raises(StackError, match="w1, w2 died again and again"):
            stack.check()
    else:
        stack.check()


def test_a_second_owner_of_the_same_folder_is_refused(tmp_path: Path) -> None:
    with sole_owner(tmp_path, "demo"), pytest.raises(FolderInUse, match="another demo"):
        with sole_owner(tmp_path, "demo"):
            pass
    with sole_owner(tmp_path, "demo"):
        pass


def test_the_key_of_the_environment_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMARTFRZ_ADMIN_KEY", "SMARTFRZ_ADMIN_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "admin.key").write_text("of the home\n")
    assert admin_key(tmp_path) == "of the home"
    (tmp_path / "other").write_text("of the file\n")
    monkeypatch.setenv("SMARTFRZ_ADMIN_KEY_FILE", str(tmp_path / "other"))
    assert admin_key(tmp_path) == "of the file"
    monkeypatch.setenv("SMARTFRZ_ADMIN_KEY", "of the variable")
    assert admin_key(tmp_path) == "of the variable"


def test_a_document_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for number in (1, 2):
        write_json(tmp_path / "a.json", {"n": number})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 2}


def test_the_files_of_one_job_are_forgotten(tmp_path: Path) -> None:
    for job in ("job_1", "job_2"):
        (tmp_path / "jobs" / job / "attempt-1").mkdir(parents=True)
    forget_job(tmp_path, "job_1")
    forget_job(tmp_path, "job_3")
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["job_2"]
