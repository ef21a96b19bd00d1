"""A FLOP counter that also knows the attention kernel which torch uses on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten
FUSED_BACKWARD_RATIO = 2.5
"""Backward FLOPs of fused attention per forward FLOP: five products against two (Dao et al. 2022)."""
MATMUL_BACKWARD_RATIO = 2.0
"""Backward FLOPs of a product of two activations per forward FLOP: one gradient for each operand."""


def _cpu_forward(query: Any, key: Any, value: Any, *_: Any, out_val: Any = None, **__: Any) -> int:  # noqa: ARG001
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _cpu_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_val: Any = None, **__: Any) -> int:  # noqa: ARG001
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    formula._get_raw = True  # type: ignore[attr-defined]  # the counter then passes tensors, not shapes
    return formula


def flop_counter() -> FlopCounterMode:
    """A silent counter: products, convolutions and attention, two FLOPs for each multiply-add; nothing elementwise."""
    return FlopCounterMode(
        display=False,
        custom_mapping={
            _aten._scaled_dot_product_flash_attention_for_cpu: _raw(_cpu_forward),
            _aten._scaled_dot_product_flash_attention_for_cpu_backward: _raw(_cpu_backward),
        },
    )


def split(counter: FlopCounterMode) -> tuple[int, int, float]:
    """``(with_weights, batched, batched_backward)`` counted so far.

    ``batched`` are batched products and attention, which mostly multiply activations with activations;
    ``batched_backward`` is what their gradients will cost.
    """
    weighted, batched, backward = 0, 0, 0.0
    for op, flops in counter.flop_counts.get("Global", {}).items():
        name = str(op)
        if "attention" in name:
            batched, backward = batched + flops, backward + FUSED_BACKWARD_RATIO * flops
        elif "bmm" in name:
            batched, backward = batched + flops, backward + MATMUL_BACKWARD_RATIO * flops
        else:
            weighted += flops
    return weighted, batched, backward
