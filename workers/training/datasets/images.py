"""Images in another form: other sides, grey as colour. Torch only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 ``(n, channels, h, w)`` to ``(n, channels, size, size)``: bilinear, antialiased, rounded to uint8."""
    if images.shape[2:] == (size, size):
        return images
    made = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    # in pieces: as float32 a large set would take four times its memory at once
    for source, target in zip(torch.split(images, 4096), torch.split(made, 4096), strict=True):
        pixels = F.interpolate(source.to(torch.float32), (size, size), mode="bilinear", antialias=True)
        target.copy_(pixels.round_().clamp_(0.0, 255.0))
    return made


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Grey ``(n, 1, h, w)`` as ``(n, channels, h, w)``: a view, so that colour rests in the memory of grey."""
    return images if images.shape[1] == channels else images.expand(-1, channels, -1, -1)
