"""Import torchvision where its wheel and torch's were built for different devices.

The wheel of torchvision on PyPI is a CUDA build. With a CPU build of torch its compiled operators cannot load, and
``import torchvision`` (or timm, which imports it) fails because it annotates operators that do not exist. Declaring
those operators without an implementation suffices for this project; ``torchvision.ops.nms`` itself stays unusable.
"""

from __future__ import annotations

import importlib
import sys

import torch

_SYMPTOM = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # kept alive: an operator is lost with the library that declares it


def ensure_torchvision() -> None:
    """Make ``import torchvision`` work, where it is installed; call it before any import of torchvision or timm."""
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-initialised submodules of the failed import
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    importlib.import_module("torchvision")
