"""Every fault that can be told at submit has its pointer and its code."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from freezer.config import POLICIES as FREEZE_POLICIES
from freezer.config import FreezeConfig
from workers.jobs import options
from workers.jobs.catalog import DATASETS, MODELS, POLICIES, validate
from workers.jobs.spec import JobSpec
from workers.packages import PACKAGES
from workers.settings import Settings

GOOD: dict[str, Any] = {"name": "x", "model": {"name": "resnet-small"}, "data": {"name": "mnist5k"}}


@pytest.fixture
def operator(tmp_path: Path, stand_in_packages: Path) -> Settings:
    """Settings with a code and a data directory that hold one file each, and a link that leads out; all packages."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").touch()
    (tmp_path / "data" / "out").symlink_to("/etc")
    return Settings(
        home=tmp_path / "home",
        code_dir=tmp_path / "code",
        data_dir=tmp_path / "data",
        packages_dir=stand_in_packages,
        max_processes=4,
    )


def spec(**parts: Any) -> JobSpec:
    return JobSpec.model_validate({**copy.deepcopy(GOOD), **parts})


def found(spec: JobSpec, settings: Settings) -> list[tuple[str, str]]:
    return [(problem.pointer, problem.code) for problem in validate(spec, settings)]


CODE_MODEL = {"name": "code", "entry": "mine.py:model"}
TEXT_MODEL = {"name": "minilm-l6"}
MINILM = ("/model/name", "minilm-l6")
LONG = "x" * 300
"""Longer than a file name may be."""


@pytest.mark.parametrize(
    ("parts", "pointer", "code"),
    [
        ({"model": {"name": "nope"}}, "/model/name", "UNKNOWN_MODEL"),
        ({"data": {"name": "nope"}}, "/data/name", "UNKNOWN_DATASET"),
        ({"training": {"seed": 2**63}}, "/training/seed", "SEED_TOO_LARGE"),
        ({"model": {"name": "resnet-small", "options": {"wide": 1}}}, "/model/options/wide", "UNKNOWN_OPTION"),
        ({"model": {"name": "resnet-small", "options": {"a/b~": 1}}}, "/model/options/a~1b~0", "UNKNOWN_OPTION"),
        ({"model": {"name": "resnet-small", "options": {"width": "8"}}}, "/model/options/width", "INVALID_OPTION"),
        ({"model": {"name": "resnet-small", "options": {"width": 0}}}, "/model/options/width", "INVALID_OPTION"),
        (
            {"model": {"name": "torchvision"}, "data": {"name": "mnist5k", "options": {"channels": 3}}},
            "/model/options/arch",
            "MISSING_OPTION",
        ),
        ({"model": {"name": "resnet-small", "path": "../w"}}, "/model/path", "PATH_OUTSIDE"),
        ({"model": {"name": "resnet-small", "path": LONG}}, "/model/path", "NOT_FOUND"),
        ({"model": {"name": "code", "entry": f"{LONG}.py:f"}}, "/model/entry", "NOT_FOUND"),
        ({"data": {"name": "folder", "path": LONG}}, "/data/path", "NOT_FOUND"),
        ({"data": {"name": "folder", "path": "x/" * 3000}}, "/data/path", "NOT_FOUND"),
        ({"freeze": {"options": {"weights": LONG}}}, "/freeze/options/weights", "INVALID_FREEZE"),
        (
            {"model": TEXT_MODEL, "data": {"name": "csv", "path": "mine.csv", "options": {"test_path": LONG}}},
            "/data/options/test_path",
            "NOT_FOUND",
        ),
        ({"model": {"name": "code", "entry": "../x.py:f"}}, "/model/entry", "PATH_OUTSIDE"),
        ({"model": {"name": "code", "entry": "/etc/x.py:f"}}, "/model/entry", "PATH_OUTSIDE"),
        ({"model": {"name": "code", "entry": "mine.py"}}, "/model/entry", "INVALID_ENTRY"),
        ({"model": {"name": "code", "entry": "other.py:f"}}, "/model/entry", "NOT_FOUND"),
        ({"data": {"name": "mnist5k", "options": {"sice": 3}}}, "/data/options/sice", "UNKNOWN_OPTION"),
        ({"data": {"name": "mnist5k", "options": {"size": 3}}}, "/data/options/size", "INVALID_OPTION"),
        ({"data": {"name": "mnist5k", "options": {"channels": 2}}}, "/data/options/channels", "INVALID_OPTION"),
        ({"data": {"name": "mnist5k", "options": {"classes": [1]}}}, "/data/options/classes", "INVALID_OPTION"),
        ({"data": {"name": "mnist5k", "options": {"classes": [1, 1]}}}, "/data/options/classes", "INVALID_OPTION"),
        ({"data": {"name": "mnist5k", "options": {"classes": [1, "2"]}}}, "/data/options/classes/1", "INVALID_OPTION"),
        ({"data": {"name": "mnist5k", "path": "x"}}, "/data/path", "UNEXPECTED_PATH"),
        ({"data": {"name": "folder"}}, "/data/path", "MISSING_PATH"),
        ({"data": {"name": "folder", "path": "nope"}}, "/data/path", "NOT_FOUND"),
        ({"data": {"name": "folder", "path": "/etc"}}, "/data/path", "PATH_OUTSIDE"),
        ({"data": {"name": "folder", "path": "out"}}, "/data/path", "PATH_OUTSIDE"),
        ({"data": {"name": "code", "entry": "../x.py:f"}}, "/data/entry", "PATH_OUTSIDE"),
        ({"data": {"name": "20newsgroups"}}, "/data/name", "TASK_MISMATCH"),
        ({"model": TEXT_MODEL}, "/data/name", "TASK_MISMATCH"),
        ({"data": {"name": "csv", "path": "mine.csv"}}, "/data/name", "TASK_MISMATCH"),
        (
            {"model": TEXT_MODEL, "data": {"name": "csv", "path": "mine.csv", "options": {"test_path": "../t"}}},
            "/data/options/test_path",
            "PATH_OUTSIDE",
        ),
        (
            {"model": TEXT_MODEL, "data": {"name": "csv", "path": "mine.csv", "options": {"kind": "features"}}},
            "/data/name",
            "TASK_MISMATCH",
        ),
        (
            {"model": {"name": "transformers"}, "data": {"name": "20newsgroups"}},
            "/model/path",
            "MISSING_PATH",
        ),
        (
            {"model": {"name": "transformers", "path": "/etc"}, "data": {"name": "20newsgroups"}},
            "/model/path",
            "PATH_OUTSIDE",
        ),
        ({"model": {"name": "efficientnet-lite0"}}, "/data/options/channels", "CHANNELS_MISMATCH"),
        (
            {"model": {"name": "resnet-small", "path": "mine.csv", "init_from": "job_1"}},
            "/model/init_from",
            "TWO_STARTS",
        ),
        ({"freeze": {"policy": "nope"}}, "/freeze/policy", "UNKNOWN_POLICY"),
        ({"freeze": {"windows": 3}}, "/freeze/windows", "UNKNOWN_FIELD"),
        ({"freeze": {"window": 1}}, "/freeze/window", "INVALID_FREEZE"),
        ({"freeze": {"window": "30"}}, "/freeze/window", "INVALID_FREEZE"),
        ({"freeze": {"unit": "neuron"}}, "/freeze/unit", "INVALID_FREEZE"),
        ({"freeze": {"pin": ["a", 1]}}, "/freeze/pin/1", "INVALID_FREEZE"),
        ({"freeze": {"policy": "static", "options": {"frist": 1}}}, "/freeze/options/frist", "INVALID_FREEZE"),
        ({"freeze": {"options": {"weights": "/etc/passwd"}}}, "/freeze/options/weights", "PATH_OUTSIDE"),
        ({"freeze": {"options": {"weights": "nope"}}}, "/freeze/options/weights", "INVALID_FREEZE"),
        ({"training": {"early_stop": {}}}, "/training/early_stop", "MISSING_VALIDATION"),
        (
            {"resources": {"processes_per_worker": 5}},
            "/resources/processes_per_worker",
            "TOO_MANY_PROCESSES",
        ),
    ],
)
def test_a_fault_has_its_pointer_and_code(parts: dict[str, Any], pointer: str, code: str, operator: Settings) -> None:
    assert found(spec(**parts), operator) == [(pointer, code)]


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"model": CODE_MODEL},
        {"model": CODE_MODEL, "data": {"name": "code", "entry": "mine.py:data", "options": {"free": [1]}}},
        {"model": CODE_MODEL, "data": {"name": "20newsgroups"}},
        {"model": TEXT_MODEL, "data": {"name": "csv", "path": "mine.csv"}},
        {"model": {"name": "transformers", "path": "owner/name"}, "data": {"name": "rotten-tomatoes"}},
        {"model": {"name": "efficientnet-lite0"}, "data": {"name": "mnist5k", "options": {"channels": 3, "size": 64}}},
        {"model": {"name": "bert-small"}, "data": {"name": "bbc-news"}},
        {"data": {"name": "fashion-mnist", "options": {"classes": [5, 9, 6, 7, 8]}}},
        {"model": {"name": "resnet-small", "init_from": "job_1"}},
        {"model": {"name": "transformers", "path": "owner/name", "init_from": "job_1"}, "data": {"name": "bbc-news"}},
        {"freeze": {"policy": "static", "options": {"first": 2}, "pin": ["head"], "threshold": 0.7}},
        {"freeze": {"threshold": 0.7, "window": 8, "snapshot_every": None, "options": {"weights": "mine.csv"}}},
        {"training": {"early_stop": {}}, "data": {"name": "mnist5k", "validation_ratio": 0.1}},
        {"resources": {"processes_per_worker": 4}},
    ],
)
def test_what_can_work_has_no_problem(parts: dict[str, Any], operator: Settings) -> None:
    assert validate(spec(**parts), operator) == []


def test_all_problems_are_told_at_once(operator: Settings) -> None:
    bad = spec(model={"name": "nope"}, data={"name": "no"}, freeze={"window": 1}, resources={"processes_per_worker": 9})
    assert len(validate(bad, operator)) == 4


@pytest.mark.parametrize(
    ("parts", "pointer", "code", "setting"),
    [
        ({"model": CODE_MODEL}, "/model/entry", "CODE_DISABLED", "SMARTFRZ_CODE_DIR"),
        ({"data": {"name": "folder", "path": "x"}}, "/data/path", "DATA_DISABLED", "SMARTFRZ_DATA_DIR"),
    ],
)
def test_user_code_and_data_are_off_until_the_operator_allows_them(
    parts: dict[str, Any], pointer: str, code: str, setting: str, operator: Settings
) -> None:
    problems = validate(spec(**parts), operator.model_copy(update={"code_dir": None, "data_dir": None}))
    assert [(problem.pointer, problem.code) for problem in problems] == [(pointer, code)]
    assert setting in problems[0].detail


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({}, [("/data/name", "mnist5k")]),
        ({"model": TEXT_MODEL, "data": {"name": "20newsgroups"}}, [("/data/name", "20newsgroups")]),
        (
            {"model": {"name": "bert-small"}, "data": {"name": "csv", "path": "mine.csv"}},
            [("/model/name", "minilm-l6")],
        ),
        (
            {"model": CODE_MODEL, "data": {"name": "bbc-news"}},
            [("/data/name", "bbc-news"), ("/model/name", "minilm-l6")],
        ),
        ({"model": CODE_MODEL, "data": {"name": "code", "entry": "mine.py:data"}}, []),
    ],
)
def test_a_missing_package_is_told_with_the_command_that_brings_it(
    parts: dict[str, Any], missing: list[tuple[str, str]], operator: Settings, tmp_path: Path
) -> None:
    (tmp_path / "few").mkdir()
    if parts.get("model") == TEXT_MODEL:
        (tmp_path / "few" / "minilm-l6").symlink_to(operator.packages / "minilm-l6")
    problems = validate(spec(**parts), operator.model_copy(update={"packages_dir": tmp_path / "few"}))
    assert [(p.pointer, p.code) for p in problems] == [(pointer, "PACKAGE_MISSING") for pointer, _ in missing]
    for problem, (_, name) in zip(problems, missing, strict=True):
        assert f"run `smartfrz data fetch {name}`" in problem.detail
        assert f"docker-compose exec worker smartfrz data fetch {name}" in problem.detail


def test_the_detail_names_what_would_work(operator: Settings) -> None:
    (unknown,) = validate(spec(model={"name": "nope"}), operator)
    assert all(name in unknown.detail for name in MODELS)
    (mismatch,) = validate(spec(data={"name": "20newsgroups"}), operator)
    assert "minilm-l6" in mismatch.detail
    (option,) = validate(spec(model={"name": "vit-small", "options": {"x": 1}}), operator)
    assert "patch" in option.detail


def test_entries_are_json_and_name_real_packages() -> None:
    for table in (MODELS, DATASETS, POLICIES):
        for name, entry in table.items():
            assert entry.name == name
            assert json.loads(json.dumps(entry.to_dict()))["description"]
            assert entry.package is None or entry.package in PACKAGES
    assert set(MODELS) == set(options.MODEL_OPTIONS)
    assert set(DATASETS) == set(options.DATA_OPTIONS)
    assert set(POLICIES) == set(FREEZE_POLICIES)


def test_a_policy_schema_has_every_field_with_its_docstring() -> None:
    for name, entry in POLICIES.items():
        properties = entry.schema["properties"]
        assert set(properties) == set(FreezeConfig.__dataclass_fields__)
        assert properties["policy"]["const"] == name
        assert all(value.get("description") for value in properties.values())
    assert "first" in POLICIES["static"].schema["properties"]["options"]["properties"]
