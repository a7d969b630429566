"""The paper's accuracies by table and cell, and the labels that data sets, networks and methods are printed with."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.repository import PAPER
from llqr_sam.suite.plan.plan import Cell

ACCURACY = PAPER / "accuracy.csv"

DATASETS = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "TinyImageNet-200",
    "imagenet": "ImageNet",
    "iwslt14": "IWSLT14 De-En",
    "multi30k": "Multi30k De-En",
}
ARCHS = {
    "small_cnn": "Small CNN",
    "vgg16_bn": "VGG16-BN",
    "resnet18": "ResNet-18",
    "wrn28_10": "WRN-28-10",
    "wrn34_10": "WRN-34-10",
    "pyramidnet110": "PyramidNet-110",
    "resnet50": "ResNet-50",
    "vit_tiny": "ViT-Ti",
    "vit_small": "ViT-S/16",
    "vit_base": "ViT-B/16",
    "vit_large": "ViT-L/16",
    "transformer_iwslt": "transformer_iwslt_de_en",
    "transformer_small": "Small Transformer",
}
METHODS = {
    "sgdm": "SGDM",
    "adam": "Adam",
    "adamw": "AdamW",
    "sam": "SAM",
    "fisher_sam": "FisherSAM",
    "f_sam": "F-SAM",
    "asam": "ASAM",
    "vasso": "VaSSO",
    "info_sam": "infoSAM",
    "llqr": "LLQR",
    "llqr_sam": "LLQR+SAM",
    "llqr_probe_sam": "LLQR^Δ+SAM",
    "llqr_f_sam": "LLQR+F-SAM",
}
METRICS = ("top1", "val_bleu")
GEOMETRIES = {"ngd": "NGD", "newton": "Newton"}


@dataclass(frozen=True)
class PaperValue:
    """Mean and standard deviation over seeds as printed in the paper, top-1 in percent or BLEU."""

    mean: float
    std: float


def dataset_label(name: str) -> str:
    """``CIFAR-100`` for ``cifar100``; a user's own data set keeps its name."""
    return DATASETS.get(name, name)


def arch_label(name: str) -> str:
    """``ResNet-18`` for ``resnet18``; a user's own network keeps its name."""
    return ARCHS.get(name, name)


def method_label(cell: Cell) -> str:
    """``LLQR+SAM (NGD)``: the method and its geometry."""
    name = METHODS.get(cell.method, cell.method)
    return f"{name} ({GEOMETRIES[cell.geometry]})" if cell.geometry else name


def read_accuracy(path: Path = ACCURACY) -> dict[tuple[str, Cell], PaperValue]:
    """The paper's top-1 and BLEU values by table number and cell."""
    datasets = {label: name for name, label in DATASETS.items()}
    archs = {label: name for name, label in ARCHS.items()}
    with path.open(newline="") as file:
        return {
            (
                row["table"],
                Cell(
                    datasets[row["dataset"]],
                    archs[row["arch"]],
                    float(row["label_noise"] or 0),
                    row["method"],
                    row["geometry"] or None,
                ),
            ): PaperValue(float(row["mean"]), float(row["std"]))
            for row in csv.DictReader(file)
            if row["metric"] in METRICS
        }
