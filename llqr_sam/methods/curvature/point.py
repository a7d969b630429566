"""Where a network is differentiated, and its values there.

The coordinates are the model's own parameters, so that every use of them counts: a penalty in the loss, a loss that
``forward`` leaves on a module, a weight that is also held outside the registry. Parameters in half precision, and those
with hooks that change their gradient, are replaced by float32 leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from llqr_sam.methods.curvature.diagnosis import UnsupportedModuleError
from llqr_sam.methods.curvature.inference import enter_inference, unchanged_attributes
from llqr_sam.methods.curvature.precision import WHOLE, Precision
from llqr_sam.methods.curvature.trees import mapped
from llqr_sam.methods.named import HALF, Named

LossFunction = Callable[[Any, Any], Tensor]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Point:
    """A network at its present parameters on a minibatch, with the loss where that is differentiated too.

    Attributes:
        model: The network; it is called in inference mode.
        parameters: Its trainable parameters, the coordinates: name -> leaf.
        frozen: Its other parameters.
        buffers: Its buffers; each call gets copies, which it may write to.
        inputs: A tensor, a tuple of positional arguments or a dictionary of keywords.
        replaced: The model's own parameters where ``parameters`` has another leaf.
        precision: Precision of the call; the outputs are float32 at least.
        targets: Whatever ``loss_fn`` takes.
        loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d. ``None``: the outputs are what is differentiated.
    """

    varying: ClassVar[tuple[str, ...]] = ("parameters", "frozen", "buffers", "inputs", "targets")
    """Fields that differ from point to point."""

    model: nn.Module
    parameters: Named
    frozen: Named
    buffers: Named
    inputs: Any
    replaced: Named
    precision: Precision = WHOLE
    targets: Any = None
    loss_fn: LossFunction | None = None

    @property
    def device(self) -> torch.device:
        """Device of the coordinates."""
        return next(iter(self.parameters.values())).device

    def outputs(self, parameters: Named | None = None) -> Tensor:
        """The network's outputs, at these or at other parameters."""
        return self.evaluated(lambda z: z, parameters)

    def loss(self, parameters: Named | None = None) -> Tensor:
        """The mean loss, at these or at other parameters."""
        return self.evaluated(self.loss_of, parameters)

    def values(self, parameters: Named) -> list[Tensor]:
        """The function that is traced: the gradient of the loss, or the outputs where there is no loss."""
        return [self.outputs(parameters)] if self.loss_fn is None else list(grad(self.loss)(parameters).values())

    def evaluated(self, make: Callable[[Tensor], Made], parameters: Named | None = None) -> Made:
        """Returns ``make(outputs)``, computed while the network holds these parameters and what the call left on it."""
        tensors = {**self.frozen, **_copies(self.buffers), **(parameters or self.parameters)}
        state, inputs = {f"network.{name}": x for name, x in tensors.items()}, _copies(self.inputs)
        arguments = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
        keywords = inputs if isinstance(inputs, dict) else {}
        call = _Call(self, make)
        with unchanged_attributes(self.model):
            try:
                made: Made = functional_call(call, state, arguments, keywords)
                return made
            except RuntimeError as error:
                if not self.replaced or isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = str(error).splitlines()[0].rstrip(".")
                raise UnsupportedModuleError(
                    f"a refresh runs this network with its parameters in float32, and there it fails: {reason}. "
                    "A dtype fixed in forward, or a parameter held outside the registry, is the usual cause."
                ) from error

    def loss_of(self, outputs: Tensor) -> Tensor:
        """The mean loss of these outputs, 0-d."""
        assert self.loss_fn is not None
        loss = unchanged_loss(self.loss_fn, outputs, self.targets)
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss_fn must return the mean loss, a 0-d tensor, not {type(loss).__name__}.")
        if loss.numel() != 1:
            raise ValueError(
                f"loss_fn returns {list(loss.shape)} losses, and LLQR needs their mean, a 0-d tensor; "
                'with reduction="none", take .mean().'
            )
        return loss if loss.ndim == 0 else loss.reshape(())

    def require_differentiable(self, loss: Tensor) -> None:
        """Refuses a loss that depends on no coordinate, or on a parameter that this point replaces."""
        if not loss.requires_grad:
            raise ValueError("the loss depends on no trainable parameter; was it, or an output, detached?")
        if not self.replaced:
            return
        reached = torch.autograd.grad(loss, list(self.replaced.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(self.replaced, reached, strict=True):
            if gradient is not None:
                raise UnsupportedModuleError(
                    f"parameter {name} is used from outside the model's registry too (in a plain list, say), where a "
                    "refresh cannot put its float32 copy. Register it, or train in float32."
                )


class _Call(nn.Module):
    """The network and a function of its outputs as one module, so that both see the same parameters."""

    def __init__(self, point: Point, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network = point.model
        self._autocast = point.precision.autocast
        self._precision = point.precision.network(point.device)
        self._make = [make]  # in a list: a loss that is a module must not become part of this one

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        enter_inference(self.network)
        with self._precision:
            outputs = self.network(*arguments, **keywords)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"LLQR needs a model that returns one tensor of outputs, not {type(outputs).__name__}; "
                "wrap it in a module that returns its logits."
            )
        if self._autocast is not None and outputs.dtype in HALF:
            outputs = outputs.float()
        return self._make[0](outputs)


def unchanged_loss(loss_fn: LossFunction, outputs: Tensor, targets: Any) -> Tensor:
    """``loss_fn(outputs, targets)``; a loss that is a module keeps its buffers and attributes."""
    if not isinstance(loss_fn, nn.Module):
        return loss_fn(outputs, targets)
    with unchanged_attributes(loss_fn):
        loss: Tensor = functional_call(loss_fn, _copies(dict(loss_fn.named_buffers())), (outputs, targets))
    return loss


def point_of(
    model: nn.Module,
    inputs: Any,
    precision: Precision = WHOLE,
    *,
    targets: Any = None,
    loss_fn: LossFunction | None = None,
) -> Point:
    """The model as it stands, its tensors in float32 at least."""
    parameters: Named = {}
    frozen: Named = {}
    replaced: Named = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen[name] = _ordinary(parameter.detach())
        elif parameter.dtype in HALF or parameter._backward_hooks:
            parameters[name] = _ordinary(parameter.detach()).requires_grad_()
            replaced[name] = parameter
        else:
            parameters[name] = parameter
    buffers = {name: _ordinary(buffer) for name, buffer in model.named_buffers()}
    inputs = mapped(_ordinary, dict(inputs) if isinstance(inputs, Mapping) else inputs)
    return Point(
        model, parameters, frozen, buffers, inputs, replaced, precision, mapped(_ordinary, targets), loss_fn
    )  # fmt: skip


def _ordinary(tensor: Tensor) -> Tensor:
    """Casts half precision to float32, and copies a tensor of inference mode; returns others as they are."""
    tensor = tensor.clone() if tensor.is_inference() else tensor
    return tensor.float() if tensor.dtype in HALF else tensor


def _copies(tree: Any) -> Any:
    """Returns copies that a call may overwrite."""
    return mapped(Tensor.clone, tree)
