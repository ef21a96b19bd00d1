"""No path leaves the directory that the operator allows."""

from pathlib import Path

import pytest

from workers.jobs.paths import PathOutside, confine, model_source, split_entry


def test_a_path_inside_is_absolute_and_need_not_exist(tmp_path: Path) -> None:
    assert confine("a/./b/../c", tmp_path) == tmp_path.resolve() / "a" / "c"
    assert confine(tmp_path / "x", tmp_path) == tmp_path.resolve() / "x"


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "/etc/passwd", "a/../..", "x\0y"])
def test_a_path_that_leads_out_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(PathOutside):
        confine(path, tmp_path / "root")


def test_a_sibling_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root-other").mkdir()
    with pytest.raises(PathOutside):
        confine("../root-other", tmp_path / "root")


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "real")
    assert confine("in/x", root) == root.resolve() / "real" / "x"
    with pytest.raises(PathOutside):
        confine("out/secret", root)


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert confine("x", tmp_path / "link") == tmp_path.resolve() / "real" / "x"


def test_an_entry_has_a_file_and_a_function() -> None:
    assert split_entry("a/b.py:make") == ("a/b.py", "make")
    for bad in ("b.py", "b.py:", "b:make", "b.py:a.b", ":make", "b.py:make()"):
        with pytest.raises(ValueError, match=r"file\.py:function"):
            split_entry(bad)


def test_what_exists_under_the_data_directory_is_a_folder_else_a_hub_name(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert model_source("mine", tmp_path) == tmp_path.resolve() / "mine"
    assert model_source("owner/name", tmp_path) == "owner/name"
    assert model_source("owner/name", None) == "owner/name"
    for bad in ("../x", "/etc", "a/../../b", ""):
        with pytest.raises(PathOutside):
            model_source(bad, None)
    with pytest.raises(PathOutside):
        model_source("../x", tmp_path)
    assert model_source("x" * 300, tmp_path) == "x" * 300, "no file can have that name"
