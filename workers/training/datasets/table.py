"""The user's own tables: CSV or JSON lines, of texts or of numbers."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.jobs.options import TableOptions
from workers.jobs.spec import DataSpec
from workers.settings import Settings
from workers.training.datasets.paths import allowed
from workers.training.datasets.raw import Raw, RawSplit, encode_labels
from workers.training.errors import DatasetInvalid


def table(spec: DataSpec, options: TableOptions, settings: Settings) -> Raw:
    """CSV with a header line, or JSON objects a line: a text and a label column, or numbers and a label column."""
    rows = _rows(allowed(spec.path, settings), spec.name)
    more = None
    if options.test_path is not None:
        more = _rows(allowed(options.test_path, settings, "data.options.test_path"), spec.name)
    labels, names = encode_labels(_column(rows, options.label_column))
    columns = [name for name in rows[0] if name != options.label_column]
    test = None
    if more is not None:
        test = RawSplit(_samples(more, options, columns), encode_labels(_column(more, options.label_column), names)[0])
    train = RawSplit(_samples(rows, options, columns), labels)
    return Raw(options.kind, names, train, test, options.test_ratio, normalise=options.kind == "features")


def _samples(rows: list[dict[str, Any]], options: TableOptions, columns: list[str]) -> Tensor | list[str]:
    if options.kind == "text":
        return [str(value) for value in _column(rows, options.text_column)]
    by_column = [_column(rows, name) for name in columns]
    if not columns:
        raise DatasetInvalid(f"there is no column beside {options.label_column!r}")
    try:
        values = [[float(value) for value in column] for column in by_column]
    except (TypeError, ValueError) as error:
        raise DatasetInvalid(f"kind features needs numbers in every column but the label: {error}") from error
    if not all(math.isfinite(value) for column in values for value in column):
        raise DatasetInvalid("kind features needs finite numbers, but some are NaN or infinite")
    return torch.tensor(values, dtype=torch.float32).T.contiguous()


def _column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    for number, row in enumerate(rows, start=1):
        if row.get(name) is None:
            raise DatasetInvalid(f"row {number} has no {name!r}; its columns: {', '.join(str(key) for key in row)}")
    return [row[name] for row in rows]


def _rows(path: Path, form: str) -> list[dict[str, Any]]:
    """Rows as dicts, in file order.

    Raises:
        DatasetInvalid: not UTF-8, damaged, or without rows.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            if form == "csv":
                rows: list[Any] = list(csv.DictReader(stream))
            else:
                rows = [json.loads(line) for line in stream if line.strip()]
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DatasetInvalid(f"cannot read {path.name} as {form}: {error}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DatasetInvalid(f"{path.name} holds no rows" if not rows else f"{path.name}: each line must be an object")
    return rows
