"""The example of a job with user code is a spec that can be submitted, and its model learns its data."""

import json
from pathlib import Path

import torch

from workers.jobs.catalog import validate
from workers.jobs.spec import JobSpec
from workers.settings import Settings
from workers.training.datasets import load
from workers.training.models import build, forward

FOLDER = Path(__file__).parents[4] / "examples" / "custom_job"


def test_the_example_is_valid_and_learns(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, code_dir=FOLDER)
    spec = JobSpec.model_validate(json.loads((FOLDER / "job.json").read_text(encoding="utf-8")))
    assert validate(spec, settings) == []
    bundle = load(spec.data, settings, spec.model)
    model = build(spec.model, bundle.task, settings, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.training.optimizer.lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        batch = bundle.train.batch(torch.randint(len(bundle.train), (100,), generator=generator))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward(model, batch.inputs), batch.labels).backward()
        optimizer.step()
    batch = bundle.test.batch(torch.arange(len(bundle.test)))
    with torch.no_grad():
        right = forward(model, batch.inputs).argmax(dim=1) == batch.labels
    assert float(right.float().mean()) > 0.9
