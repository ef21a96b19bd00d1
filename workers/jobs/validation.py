"""Faults of a spec that can be told before it runs, each with the JSON pointer to it. No torch, no data read.

What has to lie on disk is looked for here: API and workers share the home and every directory of the settings.
"""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from workers.jobs.entries import DATASETS, MODELS, POLICIES, Entry
from workers.jobs.errors import Problem
from workers.jobs.freeze_schema import freeze_problems
from workers.jobs.options import DATA_OPTIONS, MODEL_OPTIONS
from workers.jobs.paths import PathOutside, confine, model_source, split_entry
from workers.jobs.spec import DataSpec, JobSpec, ModelSpec
from workers.packages import DataPackageMissing, locate
from workers.settings import Settings

Part = Literal["model", "data"]
_DATA_WITH_PATH = ("folder", "csv", "jsonl")
_COLOUR = ("efficientnet-lite0", "torchvision")
_GREY = ("mnist5k", "fashion-mnist", "folder")
"""Data sets with an option for the channels."""
_TOKENIZER = "minilm-l6"
"""Package with the tokenizer that user code gets for text."""
MAX_SEED = 2**63 - 1
"""torch takes no seed of more than 64 bits, and each rank's is a little larger than the job's."""
_HINTS = {"extra_forbidden": "UNKNOWN_OPTION", "missing": "MISSING_OPTION"}


def validate(spec: JobSpec, settings: Settings) -> list[Problem]:
    """All problems of ``spec`` under this operator's ``settings``; empty when it can be submitted."""
    return [
        *_model_problems(spec.model, settings),
        *_data_problems(spec.data, settings),
        *_task_problems(spec),
        *_package_problems(spec, settings),
        *freeze_problems(spec.freeze, tuple(POLICIES), settings.data_dir),
        *_cache_problems(spec.freeze, settings),
        *_training_problems(spec),
        *_resource_problems(spec, settings),
    ]


def _model_problems(model: ModelSpec, settings: Settings) -> list[Problem]:
    if model.name not in MODELS:
        return [_unknown("model", model.name, MODELS)]
    problems = _option_problems("model", model.options, MODEL_OPTIONS[model.name])
    if model.name == "code":
        problems += _entry_problems("model", model.entry or "", settings.code_dir)
    if model.init_from is not None and model.path is not None and model.name != "transformers":
        text = "path and init_from both name the weights to start from: give one of them"
        problems.append(Problem("/model/init_from", text, "TWO_STARTS"))
    if model.name == "transformers":
        problems += _source_problems(model.path, settings.data_dir)
    elif model.path is not None:
        problems += _path_problems("/model/path", model.path, settings.data_dir)
    return problems


def _data_problems(data: DataSpec, settings: Settings) -> list[Problem]:
    if data.name not in DATASETS:
        return [_unknown("data", data.name, DATASETS)]
    problems = _option_problems("data", data.options, DATA_OPTIONS[data.name])
    if data.name == "code":
        problems += _entry_problems("data", data.entry or "", settings.code_dir)
    if data.name in _DATA_WITH_PATH:
        problems += _path_problems("/data/path", data.path, settings.data_dir)
        test_path = data.options.get("test_path")
        if isinstance(test_path, str):
            problems += _path_problems("/data/options/test_path", test_path, settings.data_dir)
    elif data.path is not None:
        text = f"data set {data.name!r} takes no path; only {', '.join(_DATA_WITH_PATH)} do"
        problems.append(Problem("/data/path", text, "UNEXPECTED_PATH"))
    return problems


def _task_problems(spec: JobSpec) -> list[Problem]:
    model, data = MODELS.get(spec.model.name), DATASETS.get(spec.data.name)
    if model is None or data is None:
        return []
    if problem := _channel_problem(spec):
        return [problem]
    kind = data.task
    if spec.data.name in ("csv", "jsonl"):
        kind = "features" if spec.data.options.get("kind") == "features" else "text"
    if "any" in (kind, model.task) or kind == model.task:
        return []
    fitting = [name for name, entry in MODELS.items() if entry.task in (kind, "any")]
    text = (
        f"model {model.name!r} takes {model.task} data, but data set {data.name!r} holds {kind}; "
        f"models for it: {', '.join(fitting)}"
    )
    return [Problem("/data/name", text, "TASK_MISMATCH")]


def _channel_problem(spec: JobSpec) -> Problem | None:
    """Networks of colour images on images that the options leave grey."""
    channels = spec.data.options.get("channels", 3 if spec.data.name == "folder" else None)
    if spec.model.name not in _COLOUR or spec.data.name not in _GREY or channels == 3:
        return None
    text = f"model {spec.model.name!r} takes images of 3 channels: set channels to 3, which repeats the grey one"
    return Problem("/data/options/channels", text, "CHANNELS_MISMATCH")


def _package_problems(spec: JobSpec, settings: Settings) -> list[Problem]:
    """Data packages that the job would look for in vain; each is told once, with the command that brings it."""
    problems, seen = [], set[str]()
    for part, name in packages_of(spec):
        if name in seen:
            continue
        seen.add(name)
        try:
            locate(name, settings.packages)
        except DataPackageMissing as error:
            text = f"{error}; under Compose: `docker-compose exec worker smartfrz data fetch {name}`"
            problems.append(Problem(f"/{part}/name", text, "PACKAGE_MISSING"))
    return problems


def packages_of(spec: JobSpec) -> list[tuple[Part, str]]:
    """Data packages that a job reads, each with the part of the spec that asks for it. Unknown names ask for none."""
    model, data = MODELS.get(spec.model.name), DATASETS.get(spec.data.name)
    found: list[tuple[Part, str]] = []
    if data is not None and data.package:
        found.append(("data", data.package))
    if model is not None and model.package:
        found.append(("model", model.package))
    if spec.model.name == "code" and data is not None and data.task == "text":
        found.append(("model", _TOKENIZER))
    return found


def _cache_problems(section: dict[str, Any], settings: Settings) -> list[Problem]:
    """Only of what was asked for: a default above the operator's bound is cut to it."""
    problems = []
    for name, most in (("cache_ram_mib", settings.max_cache_ram_mib), ("cache_disk_mib", settings.max_cache_disk_mib)):
        asked = section.get(name)
        if isinstance(asked, int) and asked > most:
            text = f"{asked} MiB on each rank are more than this installation allows: at most {most}"
            problems.append(Problem(f"/freeze/{name}", text, "CACHE_TOO_LARGE"))
    return problems


def _training_problems(spec: JobSpec) -> list[Problem]:
    problems = []
    if spec.training.seed > MAX_SEED:
        problems.append(Problem("/training/seed", f"the seed must be at most {MAX_SEED}", "SEED_TOO_LARGE"))
    if spec.training.early_stop is not None and spec.data.validation_ratio == 0.0:
        text = "early stop needs data to watch: set /data/validation_ratio, for example to 0.1"
        problems.append(Problem("/training/early_stop", text, "MISSING_VALIDATION"))
    return problems


def _resource_problems(spec: JobSpec, settings: Settings) -> list[Problem]:
    asked = spec.resources.processes_per_worker
    if asked <= settings.max_processes:
        return []
    text = f"{asked} processes are more than this installation allows: at most {settings.max_processes}"
    return [Problem("/resources/processes_per_worker", text, "TOO_MANY_PROCESSES")]


def _unknown(part: Part, name: str, table: dict[str, Entry]) -> Problem:
    what, code = ("model", "UNKNOWN_MODEL") if part == "model" else ("data set", "UNKNOWN_DATASET")
    return Problem(f"/{part}/name", f"unknown {what} {name!r}; known: {', '.join(table)}", code)


def _option_problems(part: Part, options: dict[str, Any], schema: type[BaseModel]) -> list[Problem]:
    try:
        schema.model_validate(options)
    except ValidationError as error:
        problems = []
        for fault in error.errors():
            pointer = "/".join(["", part, "options", *(_escape(str(step)) for step in fault["loc"])])
            code = _HINTS.get(fault["type"], "INVALID_OPTION")
            text = fault["msg"]
            if code == "UNKNOWN_OPTION":
                known = ", ".join(sorted(schema.model_fields))
                text = f"unknown option {str(fault['loc'][-1])!r}; known: {known}"
            problems.append(Problem(pointer, text, code))
        return problems
    return []


def _escape(step: str) -> str:
    """A reference token of a JSON pointer (RFC 6901, section 3)."""
    return step.replace("~", "~0").replace("/", "~1")


def _entry_problems(part: Part, entry: str, code_dir: Path | None) -> list[Problem]:
    pointer = f"/{part}/entry"
    if code_dir is None:
        text = "user code is off: the operator allows it by setting SMARTFRZ_CODE_DIR"
        return [Problem(pointer, text, "CODE_DISABLED")]
    try:
        file, _ = split_entry(entry)
        path = confine(file, code_dir)
    except PathOutside:
        return [Problem(pointer, f"{entry!r} leads out of the code directory", "PATH_OUTSIDE")]
    except ValueError as error:
        return [Problem(pointer, str(error), "INVALID_ENTRY")]
    if not os.path.isfile(path):
        return [Problem(pointer, f"there is no file {file!r} in the code directory", "NOT_FOUND")]
    return []


def _path_problems(pointer: str, path: str | None, data_dir: Path | None) -> list[Problem]:
    if path is None:
        return [Problem(pointer, "name a folder or file under the operator's data directory", "MISSING_PATH")]
    if data_dir is None:
        text = "user data is off: the operator allows it by setting SMARTFRZ_DATA_DIR"
        return [Problem(pointer, text, "DATA_DISABLED")]
    try:
        found = confine(path, data_dir)
    except PathOutside:
        return [Problem(pointer, f"{path!r} leads out of the data directory", "PATH_OUTSIDE")]
    if not os.path.exists(found):
        return [Problem(pointer, f"there is no {path!r} in the data directory", "NOT_FOUND")]
    return []


def _source_problems(path: str | None, data_dir: Path | None) -> list[Problem]:
    if path is None:
        text = "model 'transformers' needs a path: a folder under the data directory, or a hub name"
        return [Problem("/model/path", text, "MISSING_PATH")]
    try:
        source = model_source(path, data_dir)
    except PathOutside:
        return [Problem("/model/path", f"{path!r} is no hub name and leads out of the data directory", "PATH_OUTSIDE")]
    if isinstance(source, Path) and not os.path.isdir(source):
        return [Problem("/model/path", f"there is no folder {path!r} in the data directory", "NOT_FOUND")]
    return []
