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


@dataclass(frozen=True)
class Cost:
    """Floating-point operations for one image: a multiplication and an addition count as two."""

    forward: int
    backward: int


def cost(model: nn.Module, shape: tuple[int, int, int]) -> Cost:
    """Count the operations of a network's matrix products and convolutions, without computing anything.

    Args:
        model: The network; it is moved to the meta device.
        shape: Channels, height and width of an image.
    """
    model = model.to("meta").train()
    images = torch.empty(2, *shape, device="meta")  # batch-norm needs two
    with FlopCounterMode(display=False) as forward:
        outputs = model(images)
    with FlopCounterMode(display=False) as backward:
        outputs.sum().backward()
    return Cost(forward.get_total_flops() // 2, backward.get_total_flops() // 2)


@dataclass(frozen=True)
class Throughput:
    """Speed of a run after its first evaluation, up to which it warms up; later evaluations are included in the time.

    Attributes:
        images: Training images a second.
        flops: Operations a second of the training passes, without those of evaluations and refreshes of U.
        share: Share of the peak of its devices; ``None`` if that is unknown.
    """

    images: float
    flops: float
    share: float | None


def throughput(record: Record, cost: Cost) -> Throughput:
    """Speed of the run of a record.

    Args:
        record: The record, with at least two evaluations.
        cost: Operations of its network.

    Raises:
        ValueError: fewer than two evaluations.
    """
    curve = record.metrics.curve
    if len(curve) < 2:
        raise ValueError("a throughput needs at least two evaluations: the run warms up before the first.")
    seconds = curve[-1].seconds - curve[0].seconds
    images = (curve[-1].step - curve[0].step) * record.config["protocol"]["batch_size"]
    passes = 2 if record.config["optim"].get("rho") else 1
    flops = images * passes * (cost.forward + cost.backward)
    limit = peak(record.device)
    return Throughput(images / seconds, flops / seconds, flops / seconds / (limit * record.devices) if limit else None)
