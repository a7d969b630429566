"""What a package of yours calls to add its networks, data sets and base optimizers to the suite (docs/extending.md).

    from llqr_sam.plugins import network

    @network("two_layers")
    def two_layers(classes, *, channels, image_size):
        ...

``plugins=[my_package]`` on the command line imports it, and so does an entry point of the group ``llqr_sam.plugins``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from llqr_sam.data import registry as data
from llqr_sam.methods import bases
from llqr_sam.models import registry as models

Make = TypeVar("Make", bound=Callable[..., nn.Module])
Read = TypeVar("Read", bound=Callable[[Path | None], tuple[Any, Any, Any, Any]])
Kind = TypeVar("Kind", bound=type[Optimizer])


def network(name: str) -> Callable[[Make], Make]:
    """Registers ``make(classes, *, channels, image_size)``, which returns a module, as the network ``name``.

    The module takes images ``[B, channels, image_size, image_size]`` to logits ``[B, classes]``. With a parameter
    ``width`` it takes ``arch.width`` too. ValueError if there is a network of that name.
    """

    def registered(make: Make) -> Make:
        models.register(name, make)
        return make

    return registered


def dataset(name: str) -> Callable[[Read], Read]:
    """Registers ``read(path)`` as the data set ``name``; ``path`` is ``dataset.path``, or ``None``.

    It returns training images, their labels, test images and their labels: uint8 ``[N, H, W]`` or ``[N, H, W, C]``, and
    whole numbers ``[N]``. ValueError if there is a data set of that name.
    """

    def registered(read: Read) -> Read:
        data.register(name, read)
        return read

    return registered


def optimizer(name: str) -> Callable[[Kind], Kind]:
    """Registers a ``torch.optim.Optimizer`` class as the base optimizer ``name``, for ``optim.base=name``.

    ValueError if there is a base optimizer of that name.
    """

    def registered(kind: Kind) -> Kind:
        bases.register(name, kind)
        return kind

    return registered
