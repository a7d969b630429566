"""Networks of timm and torchvision: whether the product H v of a refresh is exact, and which networks are refused.

Each network has random weights and sees two random images. H v is computed in float64, as a refresh computes it, and by
double backward, written here on its own. The error is the largest over the parameters p of

    |(H v)_p - (double backward)_p| / max(|(double backward)_p|, 1e-6 |double backward|)

python scripts/zoo.py                                          every network under both divergences
python scripts/zoo.py --networks resnet18,torchvision/vgg11 --divergences ngd --json
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, get_args
from unittest import mock

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from llqr_sam.engine.devices.device import device_name
from llqr_sam.methods.curvature.divergence import DivergenceCurvature
from llqr_sam.methods.curvature.likelihoods import Categorical
from llqr_sam.methods.curvature.point import UnsupportedModuleError
from llqr_sam.methods.curvature.products import Divergence
from llqr_sam.suite.config.errors import UsageError, did_you_mean, exit_status, say
from llqr_sam.torchvision_compat import ensure_torchvision

CLASSES = 5
EXACT = 1e-6  # largest error that rounding explains; some networks compute in float32 by themselves

FOUR = (1, 1, 1, 1)  # blocks in each of four stages
SHALLOW_VIT = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
STAGES = {"depths": FOUR, "num_heads": (1, 2, 2, 2)}
DIMS = (16, 32, 32, 32)
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    # name: side of the images, and options that make the network smaller
    "resnet18": (32, {"layers": FOUR}),
    "seresnext26t_32x4d": (32, {"layers": FOUR}),
    "resnest14d": (32, {}),
    "densenet121": (32, {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
    "dla46_c": (32, {}),
    "hrnet_w18_small": (32, {}),
    "vgg11_bn": (32, {"mlp_ratio": 0.01}),
    "repvgg_a0": (32, {}),
    "regnety_002": (32, {}),
    "test_nfnet": (32, {}),
    "convnext_atto": (32, {"depths": FOUR}),
    "efficientnet_b0": (32, {}),
    "test_efficientnet_evos": (32, {}),
    "mobilenetv2_050": (32, {}),
    "mobilenetv3_small_050": (32, {}),
    "mnasnet_050": (32, {}),
    "lcnet_050": (32, {}),
    "hardcorenas_a": (32, {}),
    "ghostnet_050": (32, {}),
    "botnet26t_256": (64, {"img_size": 64}),
    "vit_tiny_patch16_224": (32, SHALLOW_VIT),
    "deit_tiny_distilled_patch16_224": (32, SHALLOW_VIT),
    "beit_base_patch16_224": (32, SHALLOW_VIT),
    "eva02_tiny_patch14_224": (28, SHALLOW_VIT | {"img_size": 28}),
    "gemma4_vit_167m": (96, {"embed_dim": 24, "depth": 2, "num_heads": 2}),
    "cait_xxs24_224": (32, SHALLOW_VIT),
    "convit_tiny": (32, SHALLOW_VIT | {"local_up_to_layer": 1}),
    "xcit_nano_12_p8_224": (32, SHALLOW_VIT),
    "crossvit_9_240": (240, {"depth": ((1, 1, 0),) * 3}),
    "volo_d1_224": (64, {"img_size": 64}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "swin_tiny_patch4_window7_224": (64, STAGES | {"img_size": 64, "window_size": 4, "embed_dim": 16}),
    "twins_svt_small": (64, STAGES | {"img_size": 64, "embed_dims": DIMS, "wss": (2, 2, 2, 2)}),
    "pvt_v2_b0": (32, {"depths": FOUR}),
    "poolformer_s12": (32, {}),
    "edgenext_xx_small": (64, {"depths": (1, 2, 2, 2)}),
    "test_coatnet": (64, {"img_size": 64}),
    "test_maxvit": (64, {"img_size": 64}),
    "visformer_tiny": (32, {"img_size": 32, "depth": (1, 1, 1), "embed_dim": 48}),
    "levit_128s": (64, {"img_size": 64, "embed_dim": DIMS[:3], "key_dim": 8, "num_heads": (2,) * 3, "depth": (1,) * 3}),
    "tiny_vit_5m_224": (32, STAGES | {"embed_dims": DIMS, "window_sizes": (2, 2, 2, 2)}),
    "fastvit_t8": (64, {}),
    "mobilevit_xxs": (64, {}),
    "efficientvit_b0": (32, {}),
    "mambaout_femto": (32, {"depths": FOUR, "dims": DIMS}),
    "torchvision/squeezenet1_1": (32, {}),
    "torchvision/googlenet": (64, {"aux_logits": False, "init_weights": False}),
    "torchvision/shufflenet_v2_x0_5": (32, {}),
    "torchvision/mobilenet_v3_small": (32, {}),
    "torchvision/SwinTransformer": (
        32,
        {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 1], "num_heads": [1, 2], "window_size": [2, 2]},
    ),
    "torchvision/VisionTransformer": (
        32,
        {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 32},
    ),
}


def built(name: str) -> nn.Module:
    """The network in float64 with random weights, none of them 0, and used running statistics."""
    ensure_torchvision()
    import timm
    import torchvision

    torch.manual_seed(0)
    size, options = NETWORKS[name]
    library, _, own = name.rpartition("/")
    create = getattr(torchvision.models, own) if library else partial(timm.create_model, own)
    network: nn.Module = create(num_classes=CLASSES, **options).double()
    with torch.no_grad():
        for p in network.parameters():  # zero scales would cut branches off
            p.add_(torch.randn_like(p), alpha=0.1 if p.ndim < 2 else 0.01)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        network.train()(images(size))
    return network


def images(size: int) -> Tensor:
    """Eight random images, always the same; running statistics of all of them suit the first two."""
    return torch.randn(8, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def double_backward(network: nn.Module, x: Tensor, y: Tensor, divergence: Divergence, v: list[Tensor]) -> list[Tensor]:
    """H v in inference mode by backward passes alone; attention and hard-sigmoids by plain operations."""
    leaves = [p for p in network.eval().parameters() if p.requires_grad]

    def derivative(values: list[Tensor], at: list[Tensor], along: list[Tensor], graph: bool = False) -> list[Tensor]:
        used = [(z, u) for z, u in zip(values, along, strict=True) if z.requires_grad]
        zs, us = zip(*used, strict=True)
        return list(torch.autograd.grad(zs, at, us, retain_graph=True, create_graph=graph, materialize_grads=True))

    with (
        sdpa_kernel(SDPBackend.MATH),
        mock.patch.object(functional, "hardsigmoid", lambda x, inplace=False: (x + 3).clamp(0, 6) / 6),
    ):
        z = network(x)
    if divergence == "newton":
        loss = functional.cross_entropy(z, y)
        return derivative(derivative([loss], leaves, [torch.ones_like(loss)], graph=True), leaves, v)
    u = torch.randn_like(z, requires_grad=True)
    (jv,) = derivative(derivative([z], leaves, [u], graph=True), [u], v)
    p = z.detach().softmax(-1)
    return derivative([z], leaves, [p * jv - p * (p * jv).sum(-1, keepdim=True)])


@dataclass(frozen=True)
class Outcome:
    """The error of H v, ``None`` where refused, and why the network was refused or not replayed."""

    error: float | None
    reason: str = ""

    @property
    def word(self) -> str:
        """exact, fell back, refused or wrong."""
        if self.error is None:
            return "refused"
        if not self.error <= EXACT:  # also where it is no number
            return "wrong"
        return "fell back" if self.reason else "exact"

    def __str__(self) -> str:
        return self.word if self.error is None else f"{self.word}, {self.error:.0e}"


def outcome(network: nn.Module, x: Tensor, y: Tensor, divergence: Divergence) -> Outcome:
    """Compares one product of a refresh with double backward's."""
    fresh = copy.deepcopy(network)  # without what a refresh or a backward pass could leave behind
    curvature = DivergenceCurvature(network, divergence, "sum", Categorical(), chunk_size=None)
    v = {key: torch.randn_like(p) for key, p in network.named_parameters() if p.requires_grad}
    try:
        product = curvature.at(x, y, functional.cross_entropy).product(v)
    except UnsupportedModuleError as error:
        return Outcome(None, str(error).splitlines()[0])
    expected = double_backward(fresh, x, y, divergence, [v[key] for key in product])
    differences = [float((h - e).norm()) for h, e in zip(product.values(), expected, strict=True)]
    sizes = [float(e.norm()) for e in expected]
    floor = 1e-6 * sum(size**2 for size in sizes) ** 0.5
    errors = [difference / max(size, floor) for difference, size in zip(differences, sizes, strict=True)]
    return Outcome(max(errors, key=lambda error: (error != error, error)), curvature.refusal)


def row(name: str, divergences: Iterable[Divergence]) -> dict[str, Any]:
    """One network: its size, an outcome for each divergence, and seconds for all of it."""
    start = time.perf_counter()
    network, x, y = built(name), images(NETWORKS[name][0])[:2], torch.tensor([1, 3])
    found = {divergence: outcome(network, x, y, divergence) for divergence in divergences}
    parameters = sum(p.numel() for p in network.parameters())
    return {"network": name, "parameters": parameters, **found, "seconds": time.perf_counter() - start}


def show(title: str, rows: list[dict[str, Any]], divergences: list[Divergence]) -> None:
    """The table, ready for a Markdown file, and below it why networks were refused or not replayed."""
    table = Table(box=box.MARKDOWN)
    for column in rows[0]:
        table.add_column(column, justify="right" if column in ("parameters", "seconds") else "left", no_wrap=True)
    for found in rows:
        cells = {**found, "parameters": f"{found['parameters']:,}", "seconds": f"{found['seconds']:.0f}"}
        table.add_row(*map(str, cells.values()))
    console = Console(width=120)
    console.print(title)
    console.print(table)
    for found in rows:
        for divergence in divergences:
            if found[divergence].reason:
                print(f"{found['network']}, {divergence}, {found[divergence].word}: {found[divergence].reason}")


def some_of(key: str, words: str, choices: Iterable[str]) -> list[str]:
    """The words of an option, with commas between; UsageError where one is no choice."""
    found, choices = words.split(","), list(choices)
    for word in found:
        if word not in choices:
            raise UsageError(
                f"{key}={word} is not here. Choose from: {', '.join(choices)}{did_you_mean(word, choices)}"
            )
    return found


def main() -> int:
    """Parses the options, compares and prints; status 1 where a product is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names with commas between; default: all")
    parser.add_argument("--divergences", default=",".join(get_args(Divergence)))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    names = some_of("networks", options.networks, NETWORKS)
    divergences: list[Any] = some_of("divergences", options.divergences, get_args(Divergence))
    machine = f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads"
    title = f"{machine}, torch {torch.__version__}, timm {version('timm')}, torchvision {version('torchvision')}"
    rows = []
    for number, name in enumerate(names, start=1):
        say(f"{number} of {len(names)}: {name}")
        rows.append(row(name, divergences))
    outcomes = [found[divergence] for found in rows for divergence in divergences]
    if options.json:
        words = [
            {
                key: {**asdict(value), "word": value.word} if isinstance(value, Outcome) else value
                for key, value in r.items()
            }
            for r in rows
        ]
        print(json.dumps({"title": title, "rows": words}, indent=1))
    else:
        show(title, rows, divergences)
    return int(any(found.word == "wrong" for found in outcomes))


if __name__ == "__main__":
    sys.exit(exit_status(main))
