"""Specs from files and --set."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.cli.specfile import SpecFileError, load_spec, set_value


def test_toml_and_json_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "x"\n[training]\nepochs = 2\n')
    (tmp_path / "a.json").write_text('{"name": "x", "training": {"epochs": 2}}')
    assert load_spec(str(tmp_path / "a.toml")) == load_spec(str(tmp_path / "a.json"))


def test_overrides_apply_in_order_and_make_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"name": "x"}')
    sets = [
        "training.epochs=1",
        "training.epochs=3",
        'freeze.pin=["head"]',
        "name=two words",
        "model.path=null",
        "a.b=1=2",
    ]
    assert load_spec(str(tmp_path / "a.json"), sets) == {
        "name": "two words",
        "training": {"epochs": 3},
        "freeze": {"pin": ["head"]},
        "model": {"path": None},
        "a": {"b": "1=2"},
    }


@pytest.mark.parametrize("override", ["novalue", "=3", "a..b=1", "name.first=x"])
def test_a_bad_override_is_named(override: str) -> None:
    with pytest.raises(SpecFileError, match="--set"):
        set_value({"name": "x"}, override)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SpecFileError, match=r"a\.json"):
        load_spec(str(tmp_path / "a.json"))


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"training": {"epochs": 1, "epochs": 2}}')
    with pytest.raises(SpecFileError, match="'epochs' stands twice"):
        load_spec(str(tmp_path / "a.json"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecFileError, match="No such file"):
        load_spec(str(tmp_path / "none.json"))
