"""How data sets, networks and methods are called in tables and figures. A user's own ones keep their names."""

from __future__ import annotations

from llqr_sam.suite.plan.plan import Cell

DATASET_LABELS = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "TinyImageNet-200",
    "imagenet": "ImageNet",
    "iwslt14": "IWSLT14 De-En",
    "multi30k": "Multi30k De-En",
}
ARCH_LABELS = {
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
METHOD_LABELS = {
    "base": "Base",
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
GEOMETRY_LABELS = {"ngd": "NGD", "newton": "Newton"}


def dataset_label(name: str) -> str:
    """``CIFAR-100`` for ``cifar100``."""
    return DATASET_LABELS.get(name, name)


def arch_label(name: str) -> str:
    """``ResNet-18`` for ``resnet18``."""
    return ARCH_LABELS.get(name, name)


def method_label(cell: Cell) -> str:
    """``LLQR+SAM (NGD)``: the method and its geometry."""
    name = METHOD_LABELS.get(cell.method, cell.method)
    return f"{name} ({GEOMETRY_LABELS[cell.geometry]})" if cell.geometry else name
