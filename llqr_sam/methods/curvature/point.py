"""Where a network is differentiated, in which precision, and its values there.

The coordinates are the model's own parameters, so that every use of them counts, in the loss and outside the registry
too. Parameters in half precision, and those with hooks that change their gradient, are replaced by float32 leaves.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from llqr_sam.methods.curvature.inference import drop_lower_precision, enter_inference, unchanged_attributes
from llqr_sam.methods.named import HALF, Named

LossFunction = Callable[[Any, Any], Tensor]
CurvatureDtype = torch.dtype | Literal["tf32"] | None
Made = TypeVar("Made")


class UnsupportedModuleError(RuntimeError):
    """A refresh of LLQR met a network that it cannot differentiate.

    The message names the module, or the loss, and what to do about it. Usual causes are an operation without a second
    derivative (a fused kernel, a function marked ``once_differentiable``), and a half-precision network that does not
    run with its parameters in float32.
    """


@dataclass(frozen=True)
class Precision:
    """The parameters' own precision, float32 or float64, or a lower one; the loss is float32 at least."""

    autocast: torch.dtype | None = None  # the network is called under autocast to this dtype, as in training
    tf32: bool = False  # float32 matrix products and convolutions may keep 10 bits of 23 (TF32), on a GPU
    eps: float = 0.0  # relative spacing of the numbers in products; 0 is that of the parameters

    @contextlib.contextmanager
    def products(self, device: torch.device) -> Iterator[None]:
        """Context for everything computed with the network, backward passes too."""
        if not self.tf32 or device.type != "cuda":
            yield
            return
        # These are PyTorch's older switches: mixing them with ``fp32_precision`` raises.
        cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        try:
            torch.backends.cudnn.allow_tf32 = True
            torch.set_float32_matmul_precision("high")
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = cudnn
            torch.set_float32_matmul_precision(matmul)


WHOLE = Precision()


def precision_of(curvature_dtype: CurvatureDtype, dtype_of_factors: torch.dtype) -> Precision:
    """The precision that ``LLQR(curvature_dtype=...)`` names, for a U of that dtype; ValueError where there is none."""
    known = {
        None: WHOLE,
        "tf32": Precision(tf32=True, eps=2.0**-10),
        torch.bfloat16: Precision(torch.bfloat16, eps=torch.finfo(torch.bfloat16).eps),
    }
    if curvature_dtype not in known:
        raise ValueError(f"curvature_dtype={curvature_dtype} is not known. Choose from: None, tf32, torch.bfloat16.")
    if curvature_dtype is not None and dtype_of_factors == torch.float64:
        raise ValueError(
            f"curvature_dtype={curvature_dtype} lowers float32, and this model is in float64; leave it out."
        )
    return known[curvature_dtype]


@dataclass(frozen=True)
class Point:
    """A network at its present parameters on a minibatch, with the loss where that is differentiated too."""

    varying: ClassVar[tuple[str, ...]] = ("parameters", "frozen", "buffers", "inputs", "targets")

    model: nn.Module  # it is called in inference mode
    parameters: Named  # its trainable parameters, the coordinates: name -> leaf
    frozen: Named  # its other parameters
    buffers: Named  # each call gets copies, which it may write to
    inputs: Any  # a tensor, a tuple of positional arguments or a dictionary of keywords
    replaced: Named  # the model's own parameters where ``parameters`` has another leaf
    targets: Any = None  # whatever ``loss_fn`` takes
    loss_fn: LossFunction | None = None  # outputs, targets -> the mean loss; None: the outputs are differentiated
    precision: Precision = WHOLE  # of the call; the outputs are float32 at least

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
        buffers, inputs = mapped(Tensor.clone, (self.buffers, self.inputs))  # the call may overwrite them
        tensors = {**self.frozen, **buffers, **(parameters or self.parameters)}
        arguments = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
        keywords = inputs if isinstance(inputs, dict) else {}

        def call() -> Made:
            enter_inference(self.model)
            drop_lower_precision(self.model)
            autocast = self.precision.autocast
            # Cast weights are not cached: a trace would find those of another call.
            with torch.autocast(self.device.type, autocast, autocast is not None, cache_enabled=False):
                outputs = self.model(*arguments, **keywords)
            if not isinstance(outputs, Tensor):
                raise TypeError(
                    f"LLQR needs a model that returns one tensor of outputs, not {type(outputs).__name__}; "
                    "wrap it in a module that returns its logits."
                )
            return make(outputs.float() if outputs.dtype in HALF else outputs)

        # The call is a module's, so that the loss too finds these parameters in the network.
        calling = nn.Module()
        calling.network, calling.forward = self.model, call
        with unchanged_attributes(self.model):
            try:
                made: Made = functional_call(calling, {f"network.{name}": x for name, x in tensors.items()}, ())
                return made
            except RuntimeError as error:
                if not self.replaced or isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = first_line(error).rstrip(".")
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

    def gradient_of(self, loss: Tensor, **options: bool) -> Named:
        """g, the gradient of a loss that was computed here; ``options`` as of ``torch.autograd.grad``."""
        if not loss.requires_grad:
            raise ValueError("the loss depends on no trainable parameter; was it, or an output, detached?")
        if self.replaced:
            own = torch.autograd.grad(loss, list(self.replaced.values()), retain_graph=True, allow_unused=True)
            reached = [name for name, gradient in zip(self.replaced, own, strict=True) if gradient is not None]
            if reached:
                raise UnsupportedModuleError(
                    f"parameter {reached[0]} is used from outside the model's registry too (in a plain list, say), "
                    "where a refresh cannot put its float32 copy. Register it, or train in float32."
                )
        gradients = vjp([loss], list(self.parameters.values()), [torch.ones_like(loss)], **options)
        return dict(zip(self.parameters, gradients, strict=True))


def point_of(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    loss_fn: LossFunction | None = None,
    precision: Precision = WHOLE,
) -> Point:
    """The model as it stands, its tensors in float32 at least."""
    own: Named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: _ordinary(p.detach()) for name, p in model.named_parameters() if not p.requires_grad}
    replaced = {name: p for name, p in own.items() if p.dtype in HALF or p._backward_hooks}
    parameters = own | {name: _ordinary(p.detach()).requires_grad_() for name, p in replaced.items()}
    buffers = {name: _ordinary(buffer) for name, buffer in model.named_buffers()}
    inputs = mapped(_ordinary, dict(inputs) if isinstance(inputs, Mapping) else inputs)
    targets = mapped(_ordinary, targets)
    return Point(model, parameters, frozen, buffers, inputs, replaced, targets, loss_fn, precision)


def unchanged_loss(loss_fn: LossFunction, outputs: Tensor, targets: Any) -> Tensor:
    """``loss_fn(outputs, targets)``; a loss that is a module keeps its buffers and attributes."""
    if not isinstance(loss_fn, nn.Module):
        return loss_fn(outputs, targets)
    with unchanged_attributes(loss_fn):
        loss: Tensor = functional_call(loss_fn, mapped(Tensor.clone, dict(loss_fn.named_buffers())), (outputs, targets))
    return loss


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def vjp(values: Sequence[Tensor], leaves: Sequence[Tensor], us: Sequence[Tensor], **options: bool) -> list[Tensor]:
    """J' u for J = d values / d leaves, by a backward pass; ``options`` as of ``torch.autograd.grad``."""
    pairs = [(z, u) for z, u in zip(values, us, strict=True) if z.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in leaves]
    zs, along = zip(*pairs, strict=True)
    pulled = torch.autograd.grad(zs, leaves, along, materialize_grads=True, **options)
    # Autograd raises where a derivative flows through the error node of a function marked once_differentiable. One in
    # the parameters bypasses that node and is silently wrong.
    waiting, seen = [t.grad_fn for t in pulled], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("its backward pass is marked once_differentiable.")
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return list(pulled)


def _ordinary(tensor: Tensor) -> Tensor:
    """Casts half precision to float32, and copies a tensor of inference mode; returns others as they are."""
    tensor = tensor.clone() if tensor.is_inference() else tensor
    return tensor.float() if tensor.dtype in HALF else tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of nested tuples, lists and mappings, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, Mapping)):
        for branch in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors(branch)


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same tree with ``function(tensor)`` in place of each tensor; everything else as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        changed = {key: mapped(function, branch) for key, branch in tree.items()}
        if not isinstance(tree, MutableMapping):
            return changed
        same_kind = copy.copy(tree)  # its readers may rely on the class of the mapping
        same_kind.update(changed)
        return same_kind
    if isinstance(tree, (tuple, list)):
        branches = [mapped(function, branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree
