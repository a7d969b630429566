"""How fast a run trained, and which share of the device's peak arithmetic that is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from llqr_sam.engine.records.record import Record

# Dense bfloat16 matrix arithmetic in FLOP/s, from NVIDIA's data sheets. The first name contained in a device's is used.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}


def peak(device: str) -> float | None:
    """Dense bfloat16 FLOP/s of the device of that name; ``None`` if unknown."""
    return next((flops for name, flops in PEAKS.items() if name in device), None)


def cost(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Operations of a network's forward and backward pass for one image ``[C, H, W]``, a multiply-add as two.

    Only matrix products and convolutions are counted. The network is moved to the meta device; nothing is computed.
    """
    model = model.to("meta").train()
    images = torch.empty(2, *shape, device="meta")  # batch-norm needs two
    with FlopCounterMode(display=False) as forward:
        outputs = model(images)
    with FlopCounterMode(display=False) as backward:
        outputs.sum().backward()
    return forward.get_total_flops() // 2, backward.get_total_flops() // 2


@dataclass(frozen=True)
class Throughput:
    """Speed of a run after its first evaluation, up to which it warms up; the time includes later evaluations."""

    images: float  # training images a second
    flops: float  # operations a second of the training passes, without those of evaluations and refreshes of U
    share: float | None  # of the peak of its devices; None if that is unknown


def throughput(record: Record, operations: int) -> Throughput:
    """Speed of a record's run; ``operations``: what one gradient of its network takes for one image (``cost``)."""
    curve = record.metrics.curve
    if len(curve) < 2:
        raise ValueError("a throughput needs at least two evaluations: the run warms up before the first.")
    images = (curve[-1].step - curve[0].step) * record.config["protocol"]["batch_size"]
    images /= curve[-1].seconds - curve[0].seconds
    flops = images * (2 if record.config["optim"].get("rho") else 1) * operations
    limit = peak(record.device)
    return Throughput(images, flops, flops / (limit * record.devices) if limit else None)
