"""How fast a run trained, and what share of the device's arithmetic that is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from llqr_sam.engine.records.record import Record

# Dense bfloat16 matrix arithmetic, FLOP/s, from NVIDIA's data sheets; the first name that is part of a device's counts.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}


def peak(device: str) -> float | None:
    """Dense bfloat16 FLOP/s of the device of that name; ``None`` where it is not known."""
    return next((flops for name, flops in PEAKS.items() if name in device), None)


@dataclass(frozen=True)
class Cost:
    """Floating-point operations for one image: a multiplication and an addition count as two."""

    forward: int
    backward: int


def cost(model: nn.Module, shape: tuple[int, int, int]) -> Cost:
    """Operations of matrix products and convolutions of a network; nothing is computed.

    Args:
        model: The network, which ends up on the meta device.
        shape: Channels, height and width of an image.
    """
    model = model.to("meta").train()
    images = torch.empty(2, *shape, device="meta")  # batch-norm wants two
    with FlopCounterMode(display=False) as forward:
        outputs = model(images)
    with FlopCounterMode(display=False) as backward:
        outputs.sum().backward()
    return Cost(forward.get_total_flops() // 2, backward.get_total_flops() // 2)


@dataclass(frozen=True)
class Throughput:
    """What a run reached from its first evaluation on, the time of the others included; what comes before warms up.

    Attributes:
        images: Training images a second.
        flops: Operations a second of the training passes alone, evaluation and refreshes of U left out.
        share: Of the peak of the devices that trained it; ``None`` where that is not known.
    """

    images: float
    flops: float
    share: float | None


def throughput(record: Record, cost: Cost) -> Throughput:
    """Reads a record.

    Args:
        record: Of two evaluations at least.
        cost: Of its network.

    Raises:
        ValueError: fewer evaluations.
    """
    curve = record.metrics.curve
    if len(curve) < 2:
        raise ValueError("a throughput needs two evaluations at least: what comes before the first warms up.")
    seconds = curve[-1].seconds - curve[0].seconds
    images = (curve[-1].step - curve[0].step) * record.config["protocol"]["batch_size"]
    passes = 2 if record.config["optim"].get("rho") else 1
    flops = images * passes * (cost.forward + cost.backward)
    limit = peak(record.device)
    return Throughput(images / seconds, flops / seconds, flops / seconds / (limit * record.devices) if limit else None)
