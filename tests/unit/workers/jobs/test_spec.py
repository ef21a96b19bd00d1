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


SGD = {"optimizer": {"name": "sgd"}}


@pytest.mark.parametrize(
    ("parts", "anneal"),
    [
        ({}, 0.8),
        ({"training": {"optimizer": {"name": "adamw"}}}, None),
        ({"freeze": {"policy": "progress-only"}}, 0.8),
        ({"model": {"name": "minilm-l6", "pretrained": False}}, 0.8),
        ({"freeze": {"policy": "smartfrz", "options": {"anneal": 0}}}, 0),
        ({"freeze": {"policy": "linear"}}, None),
        ({"freeze": {"policy": "smartfrz-paper", "options": {"weights": "w"}}}, None),
        ({"freeze": {"policy": "of-somebody"}}, None),
        ({"model": {"name": "minilm-l6"}}, None),
        ({"model": {"name": "resnet-small", "init_from": "job_1a"}}, None),
        ({"model": {"name": "resnet-small", "path": "weights.safetensors"}}, None),
        ({"model": {"name": "code", "entry": "a.py:f"}}, None),
        ({"model": {"name": "unheard-of"}}, None),
        ({"training": {**SGD, "lr_schedule": {"name": "constant"}}}, None),
    ],
)
def test_units_anneal_where_a_network_is_trained_from_scratch_with_sgd_on_a_falling_schedule(
    parts: dict[str, Any], anneal: float | None
) -> None:
    job = JobSpec.model_validate(spec(**{"training": SGD, **parts}))
    assert job.freeze_config().options.get("anneal") == anneal
    assert "anneal" not in job.freeze.get("options", {}) or anneal == 0  # what was submitted stays as it was
