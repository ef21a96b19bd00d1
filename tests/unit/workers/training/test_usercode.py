"""User code: only from the allowed directory, and its faults are told apart from ours."""

from pathlib import Path

import pytest

from workers.training.errors import CodeError, ConfigInvalid
from workers.training.usercode import call, load_function


@pytest.fixture
def code_dir(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    (tmp_path / "secret.py").write_text("def f(): return 1\n")
    return root


def test_a_function_is_found_and_its_file_imported_once(code_dir: Path) -> None:
    (code_dir / "one.py").write_text("import pathlib\nseen = []\ndef f(x): seen.append(x); return list(seen)\n")
    assert call(load_function("one.py:f", code_dir), "one.py:f", {"x": 1}) == [1]
    assert call(load_function("one.py:f", code_dir), "one.py:f", {"x": 2}) == [1, 2]


def test_a_file_can_import_its_neighbour(code_dir: Path) -> None:
    (code_dir / "smartfrz_test_neighbour.py").write_text("VALUE = 41\n")
    (code_dir / "two.py").write_text("from smartfrz_test_neighbour import VALUE\ndef f(): return VALUE + 1\n")
    assert load_function("two.py:f", code_dir)() == 42


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("../secret.py:f", "leads out"),
        ("link.py:f", "leads out"),
        ("none.py:f", "no file"),
        ("three.py:g", "defines no function"),
        ("three.py:value", "defines no function"),
        ("three.py", "file.py:function"),
    ],
)
def test_an_entry_that_cannot_work_is_a_config_error(entry: str, says: str, code_dir: Path) -> None:
    (code_dir / "three.py").write_text("value = 1\ndef f(): pass\n")
    (code_dir / "link.py").symlink_to(code_dir.parent / "secret.py")
    with pytest.raises(ConfigInvalid, match=says) as caught:
        load_function(entry, code_dir)
    assert caught.value.reason == "config_invalid"


def test_user_code_is_off_without_a_directory() -> None:
    with pytest.raises(ConfigInvalid, match="SMARTFRZ_CODE_DIR"):
        load_function("one.py:f", None)


def test_code_that_raises_is_a_code_error_with_its_cause(code_dir: Path) -> None:
    (code_dir / "four.py").write_text("def f(): raise KeyError('lost')\n")
    with pytest.raises(CodeError, match=r"four\.py:f raised KeyError: 'lost'") as caught:
        call(load_function("four.py:f", code_dir), "four.py:f", {})
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.reason == "code_error"


def test_a_file_that_cannot_be_imported_is_a_code_error_every_time(code_dir: Path) -> None:
    (code_dir / "five.py").write_text("def f(:\n")
    for _ in range(2):
        with pytest.raises(CodeError, match=r"importing five\.py raised SyntaxError"):
            load_function("five.py:f", code_dir)


def test_wrong_arguments_are_a_code_error(code_dir: Path) -> None:
    (code_dir / "six.py").write_text("def f(a): return a\n")
    with pytest.raises(CodeError, match="unexpected keyword argument"):
        call(load_function("six.py:f", code_dir), "six.py:f", {"b": 1})
