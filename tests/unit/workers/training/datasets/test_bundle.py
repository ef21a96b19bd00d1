"""Splits in memory."""

import torch

from workers.training.datasets.bundle import DataBundle, Scale, Split


def test_a_batch_keeps_the_order_of_its_indices_and_is_normalised() -> None:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 2, 3, 3).contiguous()
    split = Split(images, torch.arange(6), Scale(torch.full((2, 1, 1), 1.0), torch.full((2, 1, 1), 2.0)))
    batch = split.batch(torch.tensor([4, 0, 4]))
    assert isinstance(batch.inputs, torch.Tensor)
    assert batch.labels.tolist() == [4, 0, 4]
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs[:, 1, 2, 0].tolist() == [1.5, -0.5, 1.5]


def test_named_inputs_are_batched_together() -> None:
    split = Split({"input_ids": torch.arange(8).view(4, 2), "attention_mask": torch.ones(4, 2)}, torch.arange(4))
    inputs = split.batch(torch.tensor([3, 1])).inputs
    assert isinstance(inputs, dict)
    assert inputs["input_ids"].tolist() == [[6, 7], [2, 3]]
    assert inputs["attention_mask"].shape == (2, 2)


def test_a_subset_is_a_split_of_its_own() -> None:
    split = Split(torch.arange(10.0).view(5, 2), torch.arange(5)).subset(torch.tensor([2, 0]))
    assert len(split) == 2
    inputs = split.batch(torch.tensor([1])).inputs
    assert isinstance(inputs, torch.Tensor)
    assert inputs.tolist() == [[0.0, 1.0]]


def test_the_scale_gives_zero_mean_and_unit_variance_per_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5000, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images[:, 2] = 7  # constant: must not divide by zero
    scaled = Scale.of(images).apply(images)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled[:, :2].std(dim=(0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)
    features = torch.randn(300, 2, generator=generator) * 5 + 3
    torch.testing.assert_close(Scale.of(features).apply(features).mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)


def test_a_bundle_tells_a_model_what_it_must_fit() -> None:
    images = Split(torch.zeros(2, 1, 4, 5, dtype=torch.uint8), torch.tensor([0, 1]))
    task = DataBundle("x", "image", images, None, images, ("a", "b", "c")).task
    assert (task.kind, task.num_classes, task.input_shape) == ("image", 3, (1, 4, 5))
    text = Split({"attention_mask": torch.ones(2, 7), "input_ids": torch.ones(2, 7)}, torch.tensor([0, 1]))
    assert DataBundle("x", "text", text, None, text, ("a", "b")).input_shape == (7,)
