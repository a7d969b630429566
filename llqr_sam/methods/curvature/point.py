"""Where a network is differentiated, and its values there.

The coordinates are the model's own parameters, so that whatever reaches them counts: a penalty in the loss, a loss that
``forward`` leaves on a module, a weight that is also held outside the registry. Parameters in half precision, or with
hooks that would change their gradient, are stood in for by float32 leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from llqr_sam.methods.curvature.diagnosis import UnsupportedModuleError
from llqr_sam.methods.curvature.inference import enter_inference
from llqr_sam.methods.curvature.module_attributes import unchanged_attributes
from llqr_sam.methods.curvature.precision import WHOLE, Precision
from llqr_sam.methods.curvature.trees import mapped
from llqr_sam.methods.named import HALF, Named

LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Point:
    """A network at its present parameters, on a minibatch.

    Attributes:
        model: The network, in inference mode while it is called.
        parameters: Its trainable parameters, the coordinates: name -> leaf.
        frozen: Its other parameters.
        buffers: Its buffers; each call gets copies, which it may write to.
        inputs: A tensor, a tuple of positional arguments or a dictionary of keywords.
        replaced: The parameters for which ``parameters`` has another leaf.
        precision: That of the call; the outputs are float32 at least.
    """

    varying: ClassVar[tuple[str, ...]] = ("parameters", "frozen", "buffers", "inputs")
    """Fields that differ from point to point."""

    model: nn.Module
    parameters: Named
    frozen: Named
    buffers: Named
    inputs: Any
    replaced: Named = field(default_factory=dict)
    precision: Precision = WHOLE

    @property
    def device(self) -> torch.device:
        """Where the coordinates are."""
        return next(iter(self.parameters.values())).device

    def outputs(self, parameters: Named | None = None) -> Tensor:
        """What the network returns, at these or at other parameters.

        Raises:
            TypeError: it is not a tensor.
        """
        outputs: Tensor = self.evaluated(lambda z: z, parameters)
        return outputs

    def evaluated(self, make: Callable[[Tensor], Any], parameters: Named | None = None) -> Any:
        """``make(outputs)``, made while the network still holds these parameters and what the call left on it.

        Args:
            make: Of the outputs.
            parameters: Others than those of this point.

        Raises:
            TypeError: the network does not return a tensor.
            UnsupportedModuleError: the network runs in its own precision only.
        """
        tensors = {**self.frozen, **_fresh(self.buffers), **(parameters or self.parameters)}
        inputs = _fresh(self.inputs)
        arguments = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
        keywords = inputs if isinstance(inputs, dict) else {}
        call = _Call(self.model, make, self.precision, self.device)
        with unchanged_attributes(self.model):
            try:
                made = functional_call(call, {f"network.{name}": x for name, x in tensors.items()}, arguments, keywords)
            except RuntimeError as error:
                if not self.replaced or isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = str(error).splitlines()[0].rstrip(".")
                raise UnsupportedModuleError(
                    f"a refresh runs this network with its parameters in float32, and there it fails: {reason}. "
                    "A dtype fixed in forward, or a parameter held outside the registry, is the usual cause."
                ) from error
        return made

    def values(self, parameters: Named) -> list[Tensor]:
        """The function that is traced: here the outputs."""
        return [self.outputs(parameters)]

    def require_differentiable(self, loss: Tensor) -> None:
        """Refuses a loss that depends on no coordinate, or on a parameter for which this point has another leaf.

        Raises:
            ValueError: it depends on no parameter.
            UnsupportedModuleError: it depends on one that has another leaf here.
        """
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


@dataclass(frozen=True)
class LossPoint(Point):
    """Where a mean loss is differentiated.

    Attributes:
        targets: Whatever ``loss_fn`` takes.
        loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d.
    """

    varying: ClassVar[tuple[str, ...]] = (*Point.varying, "targets")

    targets: Any = None
    loss_fn: LossFunction | None = None

    def without_loss(self) -> Point:
        """The same place, its outputs the values."""
        return Point(self.model, self.parameters, self.frozen, self.buffers, self.inputs, self.replaced, self.precision)

    def loss(self, parameters: Named | None = None) -> Tensor:
        """The mean loss, at these or at other parameters."""
        loss: Tensor = self.evaluated(self.loss_of, parameters)
        return loss

    def loss_of(self, outputs: Tensor) -> Tensor:
        """The mean loss of these outputs.

        Raises:
            TypeError: ``loss_fn`` does not return a tensor.
            ValueError: it returns more than one number.
        """
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

    def values(self, parameters: Named) -> list[Tensor]:
        """The gradient of the loss."""
        return list(grad(self.loss)(parameters).values())


class _Call(nn.Module):
    """The network, and what is made of its outputs, as one module: both see the same parameters."""

    def __init__(
        self, network: nn.Module, make: Callable[[Tensor], Any], precision: Precision, device: torch.device
    ) -> None:
        super().__init__()
        self.network = network
        self._precision, self._device = precision, device
        self._make = [make]  # in a list, since a loss that is a module shall not be a part of this one

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        enter_inference(self.network)
        with self._precision.network(self._device):
            outputs = self.network(*arguments, **keywords)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"LLQR needs a model that returns one tensor of outputs, not {type(outputs).__name__}; "
                "wrap it in a module that returns its logits."
            )
        if self._precision.autocast is not None and outputs.dtype in HALF:
            outputs = outputs.float()
        return self._make[0](outputs)


def unchanged_loss(loss_fn: LossFunction, outputs: Tensor, targets: Any) -> Tensor:
    """``loss_fn(outputs, targets)``; a loss that is a module keeps its buffers and attributes as they were."""
    if not isinstance(loss_fn, nn.Module):
        return loss_fn(outputs, targets)
    with unchanged_attributes(loss_fn):
        loss: Tensor = functional_call(loss_fn, _fresh(dict(loss_fn.named_buffers())), (outputs, targets))
    return loss


def point_of(model: nn.Module, inputs: Any, precision: Precision = WHOLE) -> Point:
    """The model as it stands, its tensors in float32 at least, called in that precision."""
    parameters: Named = {}
    frozen: Named = {}
    replaced: Named = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen[name] = _single(parameter.detach())
        elif parameter.dtype in HALF or parameter._backward_hooks:
            parameters[name] = _single(parameter.detach()).requires_grad_()
            replaced[name] = parameter
        else:
            parameters[name] = parameter
    buffers = {name: _single(buffer) for name, buffer in model.named_buffers()}
    inputs = _single(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    return Point(model, parameters, frozen, buffers, inputs, replaced, precision)


def loss_point_of(
    model: nn.Module, inputs: Any, targets: Any, loss_fn: LossFunction, precision: Precision = WHOLE
) -> LossPoint:
    """The same, with a loss."""
    at = point_of(model, inputs, precision)
    return LossPoint(
        model, at.parameters, at.frozen, at.buffers, at.inputs, at.replaced, precision, _single(targets), loss_fn
    )


def _single(tree: Any) -> Any:
    """Half-precision tensors in float32, those of inference mode as ordinary ones; everything else as it is.

    Args:
        tree: A tensor, or tuples, lists and mappings of them in any nesting.
    """
    return mapped(_single_tensor, tree)


def _single_tensor(tensor: Tensor) -> Tensor:
    tensor = tensor.clone() if tensor.is_inference() else tensor
    return tensor.float() if tensor.dtype in HALF else tensor


def _fresh(tree: Any) -> Any:
    """Copies that a call may write to."""
    return mapped(Tensor.clone, tree)
