"""Any image classifier of timm or torchvision by its name, for images of any size the network takes.

timm builds its networks for the classes, channels and image size. torchvision fixes three channels, and its weights fix
the classes: there the first convolution is replaced, and weights are taken where their shapes fit.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llqr_sam.models.convolutional import initialise_convolutions
from llqr_sam.models.imported import make_out_of_place
from llqr_sam.torchvision_compat import ensure_torchvision

LIBRARIES = ("timm", "torchvision")


def check_name(library: str, model: str) -> None:
    """ValueError if the library has no classifier of that name; it names near ones."""
    ensure_torchvision()
    import timm
    import torchvision

    if library == "timm":
        if timm.is_model(model) and model.partition(".")[2] in ("", *_timm_tags(model)):
            return
        known = timm.list_models()
    else:
        known = torchvision.models.list_models(module=torchvision.models)
        if model in known:
            return
    close = difflib.get_close_matches(model, known, n=3)
    meant = f" (did you mean {' or '.join(close)}?)" if close else f": {library} lists its networks with list_models()."
    raise ValueError(f"arch.model={model} is not a network of {library}{meant}")


def library_network(
    library: str,
    classes: int,
    *,
    channels: int,
    image_size: int,
    model: str,
    pretrained: bool = False,
    **args: Any,
) -> nn.Module:
    """A network of a library, whose forward pass is tried on two images of zeros.

    Args:
        library: ``timm`` or ``torchvision``.
        classes: Length C of the output.
        channels: Channels of the images.
        image_size: Side S of the images, which is handed to networks that are built for one.
        model: The network's name in the library.
        pretrained: Whether it starts from the library's weights, which are downloaded; else from random ones.
        args: Further arguments of the network.

    Raises:
        ValueError: There is no such network or argument, the weights cannot be fetched, or the network does not map
            images of this size to one row of C logits.
    """
    check_name(library, model)
    size, build = _SIZE[library], _timm if library == "timm" else _torchvision
    called = f"arch.model={model}"
    sized = {size: image_size} | args
    try:
        try:
            network = build(model, classes, channels, pretrained, sized)
        except TypeError as error:
            if size not in str(error) or size in args:
                raise
            network = build(model, classes, channels, pretrained, args)
    except TypeError as error:
        raise ValueError(f"{called} cannot be built with arch.args={args}: {_first_line(error)}.") from error
    except Exception as error:  # of the hub, of a download, or of the network's own checks
        problem = "its weights cannot be fetched for arch.pretrained=true" if pretrained else "it cannot be built"
        raise ValueError(f"{called}: {problem} ({_first_line(error)}).") from error
    make_out_of_place(network)
    _try(network, called, classes, (2, channels, image_size, image_size))
    return network


_SIZE = {"timm": "img_size", "torchvision": "image_size"}
_Build = Callable[[str, int, int, bool, dict[str, Any]], nn.Module]


def _timm_tags(model: str) -> list[str]:
    """The tags of the weights that timm has for a network: d2_in1k of convnext_atto.d2_in1k."""
    import timm

    name = model.partition(".")[0]
    return [found.partition(".")[2] for found in timm.list_models(f"{name}.*", pretrained=True)]


def _timm(model: str, classes: int, channels: int, pretrained: bool, args: dict[str, Any]) -> nn.Module:
    import timm

    made: nn.Module = timm.create_model(model, pretrained=pretrained, num_classes=classes, in_chans=channels, **args)
    return made


def _torchvision(model: str, classes: int, channels: int, pretrained: bool, args: dict[str, Any]) -> nn.Module:
    from torchvision.models import get_model, get_model_weights

    made: nn.Module = get_model(model, weights=None, num_classes=classes, **args)
    first = next((name for name, each in made.named_modules() if isinstance(each, nn.Conv2d)), None)
    if channels != 3 and first is not None:
        old = made.get_submodule(first)
        assert isinstance(old, nn.Conv2d)
        made.set_submodule(first, _with_channels(old, channels))
    if pretrained:
        weights = get_model_weights(model).DEFAULT.get_state_dict(progress=False, check_hash=True)
        own = made.state_dict()
        made.load_state_dict({key: x for key, x in weights.items() if own[key].shape == x.shape}, strict=False)
    return made


def _with_channels(old: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The same convolution of other inputs, with fresh weights."""
    keys = ("out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
    new = nn.Conv2d(channels, bias=old.bias is not None, **{key: getattr(old, key) for key in keys})
    initialise_convolutions(new)
    return new


def _try(network: nn.Module, called: str, classes: int, shape: tuple[int, ...]) -> None:
    """ValueError unless a pass in training mode gives logits; running statistics and random state stay as they were."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    size = f"images of {shape[2]} x {shape[3]} pixels and {shape[1]} channel{'s' * (shape[1] > 1)}"
    device = next(network.parameters()).device
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            logits = network(torch.zeros(shape, device=device))
    except Exception as error:  # whatever the network finds wrong with them
        raise ValueError(f"{called} does not take {size}: {_first_line(error)}.") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (shape[0], classes):
        found = f"shape {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"{called} does not return logits of shape [{shape[0]}, {classes}] for {size}, but {found}.")
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
