"""What rounding in a refresh does to U g, and what it saves.

A network is trained for some hundred steps. Then one refresh learns U from the identity, without averaging, with the
network in float32, under bfloat16 autocast, and in TF32. A CPU has no TF32: there, operands of matrix products and
convolutions are rounded to its 10 bits of mantissa. g is the same in all of them, in float32. The change of U g by
rounding is compared with its change by another minibatch of the same size. A network that has learned all of its data
would show nothing: its curvature vanishes, and U stays the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.cifar import read_cifar
from llqr_sam.data.digits import read_digits
from llqr_sam.engine.measurements.rounds import Workload, time_in_rounds
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.curvature.point import CurvatureDtype, Precision
from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.named import Named, dot
from llqr_sam.models.registry import build
from llqr_sam.studies.table_10.timing import Problem

PRECISIONS: dict[str, CurvatureDtype] = {"float32": None, "tf32": "tf32", "bfloat16": torch.bfloat16}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}


def rounded(tensor: Tensor) -> Tensor:
    """Round float32 to the nearest TF32 number; return other dtypes unchanged."""
    if tensor.dtype != torch.float32:
        return tensor
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class RoundedProducts(TorchDispatchMode):
    """Rounds the operands of products. Not during tracing: the trace would hold the rounding instead of the product."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS and get_proxy_mode() is None:
            args = tree_map_only(Tensor, rounded, args)
        return func(*args, **(kwargs or {}))


class EmulatedTF32(Precision):
    """TF32 on a device without it."""

    @contextmanager
    def products(self, device: torch.device) -> Iterator[None]:
        with RoundedProducts():
            yield


class Trained:
    """A trained network and minibatches of its data.

    Args:
        path: An ``.npz`` of CIFAR for a ResNet-18 of width 16; ``None``: the small CNN on digits.
        batch: Samples in a minibatch.
        steps: Of SGD with momentum at learning rate 0.05.
        device: Where to train.
    """

    def __init__(self, path: Path | None, batch: int, steps: int, device: torch.device) -> None:
        torch.manual_seed(0)
        data: ImageArrays = read_cifar(path, 100) if path else read_digits()
        self._images = (data.train_images.float() / 255 - 0.5) / 0.25
        self._labels, self._batch, self._device = data.train_labels, batch, device
        arch, width = ("resnet18", 16) if path else ("small_cnn", None)
        self.name = f"{arch} on {path.stem if path else 'digits'} after {steps} steps"
        _, channels, side, _ = self._images.shape
        classes = int(self._labels.max()) + 1
        self.model: nn.Module = build(arch, classes=classes, image_size=side, channels=channels, width=width).to(device)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        for _ in range(steps):
            optimizer.zero_grad()
            images, labels = self.minibatch()
            loss = cross_entropy(self.model(images), labels)
            torch.autograd.backward(loss)
            optimizer.step()
        self.name += f" (training loss {loss.item():.2f})"

    def minibatch(self) -> tuple[Tensor, Tensor]:
        """Random images and their labels."""
        rows = torch.randint(0, len(self._labels), (self._batch,))
        return self._images[rows].to(self._device), self._labels[rows].to(self._device)


def effects(trained: Trained, structure: Structure, divergence: str, inner_steps: int) -> dict[str, Any]:
    """Relative changes of U g in percent: against g, by each precision, by another minibatch."""
    torch.manual_seed(1)
    first, second = trained.minibatch(), trained.minibatch()

    def learned(precision: CurvatureDtype, minibatch: tuple[Tensor, Tensor]) -> LLQR:
        metric = LLQR(
            trained.model,
            divergence=divergence,
            structure=structure,
            inner_steps=inner_steps,
            ema=0.0,
            curvature_dtype=precision,
        )
        if precision == "tf32" and minibatch[0].device.type == "cpu":
            metric._precision = EmulatedTF32(eps=metric._precision.eps)
        report = metric.refresh(*minibatch, cross_entropy)
        assert not report.unreplayed, report.unreplayed
        return metric

    whole = learned(None, first)
    g = {n: t.detach() for n, t in whole._curvature.at(*first, cross_entropy).gradient.items()}
    ug = whole.apply(g)
    lower = {name: learned(precision, first).apply(g) for name, precision in PRECISIONS.items() if precision}
    return {
        "U": f"{divergence}, {structure}",
        "U against the identity": _percent(ug, g, g),
        **{name: _percent(other, ug, ug) for name, other in lower.items()},
        "another minibatch": _percent(learned(None, second).apply(g), ug, ug),
    }


def speeds(problem: Problem, structure: Structure, divergence: str, inner_steps: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of an inner step in float32, and the ratio to it of each other precision of this device."""
    workloads = []
    for name, precision in PRECISIONS.items():
        if name != "tf32" or problem.device.type == "cuda":
            kind: dict[str, Any] = {"structure": structure, "divergence": divergence, "inner_steps": inner_steps}
            metric = LLQR(problem.model, **kind, curvature_dtype=precision)
            refresh = partial(metric.refresh, problem.inputs, problem.targets, problem.loss_fn)
            workloads.append(Workload(name, refresh, share=inner_steps))
    time_in_rounds(workloads, rounds, problem.device)
    unit, *others = workloads
    ratios = {workload.name: workload.ratio(unit) for workload in others}
    return {"refresh": f"{divergence}, {structure}", "float32, ms": 1e3 * unit.median, **ratios}


def _percent(a: Named, b: Named, unit: Named) -> float:
    """100 |a - b| / |unit|."""
    difference = {name: a[name] - b[name] for name in unit}
    return float(100 * (dot(difference, difference) / dot(unit, unit)).sqrt())
