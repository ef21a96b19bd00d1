"""The spec refuses what cannot be meant, and points to the field."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from workers.jobs.spec import JobSpec


def spec(**parts: Any) -> dict[str, Any]:
    return {"name": "x", "model": {"name": "resnet-small"}, "data": {"name": "mnist5k"}} | parts


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ({"model": {"name": "code"}}, ("model", "entry")),
        ({"model": {"name": "resnet-small", "entry": "a.py:f"}}, ("model", "entry")),
        ({"data": {"name": "code"}}, ("data", "entry")),
        ({"training": {"epochs": 0}}, ("training", "epochs")),
        ({"training": {"epoch": 1}}, ("training", "epoch")),
        ({"spec_version": 2}, ("spec_version",)),
    ],
)
def test_a_fault_points_to_its_field(parts: dict[str, Any], where: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(spec(**parts))
    assert [error["loc"] for error in caught.value.errors()] == [where]


def test_a_spec_survives_json() -> None:
    made = JobSpec.model_validate(spec(model={"name": "code", "entry": "a.py:f"}, metadata={"k": "v"}))
    assert JobSpec.model_validate_json(made.model_dump_json()) == made
