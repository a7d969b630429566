"""Curvature-vector products at a fixed point.

A refresh needs H v for fifty v at one theta, so the network is linearised once and every product reuses it.

Notation: z = f(theta) are the outputs, ``[N, C]`` (N samples or tokens, C classes); v and H v are name -> tensor
with the shapes of the parameters; J = dz/dtheta; M is the Fisher matrix of the predictive distribution at z.

    NGD     H v = s J' M J v     s = 1 (sum, the authors' code) or 1/N (mean); M = diag p - p p' for a softmax
    Newton  H v = d2 l v         l the mean loss

Both have batch-norm in inference mode, dropout off, and the plain attention kernels: the fused ones have neither a
forward-mode nor a second derivative (METHODS section 2). A network in half precision is linearised in float32.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, linearize
from torch.nn.attention import SDPBackend, sdpa_kernel

from llqr_sam.methods.diagnosis import explained, require_second_derivatives
from llqr_sam.methods.likelihoods import Likelihood
from llqr_sam.methods.named import Named, dot

Divergence = Literal["ngd", "newton"]
Reduction = Literal["sum", "mean"]
LossFunction = Callable[[Any, Any], Tensor]
OutputsAt = Callable[[Named], Tensor]
Push = Callable[[Named], Tensor]
Pusher = Callable[[OutputsAt, Tensor, Named], Push]

HALF = (torch.float16, torch.bfloat16)


class Curvature(Protocol):
    """The loss to second order at one point."""

    gradient: Named
    """g, the gradient of the mean loss."""

    def product(self, v: Named) -> Named:
        """H v, shaped like v."""
        ...


class FisherCurvature:
    """H = s J' M J, the Fisher matrix of the predictive distribution (natural gradient).

    J v is a replayed forward-mode pass where the network has one, else two backward passes; J' u is a retained
    backward pass.

    Args:
        model: Network; its trainable parameters are the coordinates.
        inputs: Preconditioner minibatch; a tuple is spread over positional arguments, a mapping over keywords.
        targets: Whatever ``loss_fn`` takes.
        loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d.
        likelihood: Predictive distribution.
        reduction: "sum" over samples (authors' code) or "mean".
        pusher: How J v is computed: ``replayed`` for many products, ``double_backward`` for one.

    Raises:
        UnsupportedModuleError: a module on the way has no second derivative.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss_fn: LossFunction,
        likelihood: Likelihood,
        reduction: Reduction,
        pusher: Pusher | None = None,
    ) -> None:
        parameters = _coordinates(model)
        self._explained = partial(explained, model, inputs)
        with _differentiable_inference(model), self._explained():
            outputs_at = partial(_outputs, model, _constants(model), _single(inputs))
            outputs = outputs_at(parameters)
            self._point = outputs_at, outputs, parameters
            self._push = (pusher or replayed)(*self._point)
            gradients = torch.autograd.grad(
                loss_fn(outputs, targets), list(parameters.values()), retain_graph=True, materialize_grads=True
            )
        self.gradient: Named = dict(zip(parameters, gradients, strict=True))
        self._output_fisher, count = likelihood.fisher(outputs.detach(), targets)
        self._scale = 1.0 if reduction == "sum" else count.to(outputs.dtype).reciprocal()
        self._unverified = 2

    def product(self, v: Named) -> Named:
        """H v: forward, M, backward."""
        _, outputs, parameters = self._point
        with self._explained():
            pushed = self._push(v)
        u = self._output_fisher(pushed) * self._scale
        pulled = torch.autograd.grad(outputs, list(parameters.values()), u, retain_graph=True, materialize_grads=True)
        product = dict(zip(parameters, pulled, strict=True))
        if self._unverified:
            # A replay with in-place operations (an LSTM's) is wrong from its second call on, and says nothing.
            self._unverified -= 1
            if not _adjoint(dot(v, product), (pushed * u).sum()):
                with self._explained():
                    self._push = double_backward(*self._point)
                return self.product(v)
        return product


class HessianCurvature:
    """H = the Hessian of the mean loss (Newton), by a backward pass through the retained gradient."""

    def __init__(self, model: nn.Module, inputs: Any, targets: Any, loss_fn: LossFunction) -> None:
        parameters = _coordinates(model)
        self._explained = partial(explained, model, inputs)
        with _differentiable_inference(model), self._explained():
            loss = loss_fn(_outputs(model, _constants(model), _single(inputs), parameters), targets)
            gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
            require_second_derivatives(gradients)
        self._parameters = parameters
        # A parameter on which the gradient does not depend has no graph to differentiate through.
        self._graphs = {name: g for name, g in zip(parameters, gradients, strict=True) if g.requires_grad}
        self.gradient: Named = {name: g.detach() for name, g in zip(parameters, gradients, strict=True)}

    def product(self, v: Named) -> Named:
        """H v."""
        graphs = self._graphs
        with self._explained():
            pulled = torch.autograd.grad(
                list(graphs.values()),
                list(self._parameters.values()),
                [v[name] for name in graphs],
                retain_graph=True,
                materialize_grads=True,
            )
        return dict(zip(self._parameters, pulled, strict=True))


def _outputs(model: nn.Module, constants: Named, inputs: Any, parameters: Named) -> Tensor:
    """The model's outputs at other parameter values; a tuple of inputs is spread, a mapping passed by keyword."""
    arguments = () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    outputs = functional_call(model, {**constants, **parameters}, arguments, keywords)
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"LLQR needs a model that returns one tensor of outputs, not {type(outputs).__name__}; "
            "wrap it in a module that returns its logits."
        )
    return outputs


def _coordinates(model: nn.Module) -> Named:
    """Trainable parameters as leaves, in float32 at least; their ``.grad`` is not the model's."""
    return {n: _single(p.detach()).requires_grad_() for n, p in model.named_parameters() if p.requires_grad}


def _constants(model: nn.Module) -> Named:
    """What else must be float32 where the coordinates are: frozen parameters and buffers in half precision."""
    frozen = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}
    return {n: t.float() for n, t in {**frozen, **dict(model.named_buffers())}.items() if t.dtype in HALF}


def _single(inputs: Any) -> Any:
    """Half-precision tensors in float32; everything else, of whatever nesting, as it is."""
    if isinstance(inputs, Tensor):
        return inputs.float() if inputs.dtype in HALF else inputs
    if isinstance(inputs, Mapping):
        return {key: _single(value) for key, value in inputs.items()}
    return tuple(_single(value) for value in inputs) if isinstance(inputs, tuple) else inputs


def replayed(outputs_at: OutputsAt, outputs: Tensor, parameters: Named) -> Push:
    """v -> J v by replaying the network linearised in forward mode; by double backward where it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing chatter about the network, not about its use here
            _, push = linearize(outputs_at, {name: p.detach() for name, p in parameters.items()})
    except (RuntimeError, NotImplementedError):
        return double_backward(outputs_at, outputs, parameters)
    return lambda v: push({name: v[name] for name in parameters})


def double_backward(outputs_at: OutputsAt, outputs: Tensor, parameters: Named) -> Push:
    """v -> J v as the derivative of u -> J' u, which is linear in u."""
    u = torch.zeros_like(outputs, requires_grad=True)
    with torch.enable_grad():
        pulled = torch.autograd.grad(outputs, list(parameters.values()), u, create_graph=True, materialize_grads=True)
    graphs = {name: t for name, t in zip(parameters, pulled, strict=True) if t.requires_grad}
    require_second_derivatives(graphs.values())

    def push(v: Named) -> Tensor:
        (pushed,) = torch.autograd.grad(
            list(graphs.values()), u, [v[name] for name in graphs], retain_graph=True, materialize_grads=True
        )
        return pushed

    return push


def _adjoint(forward: Tensor, backward: Tensor) -> bool:
    """Whether v' (J' u) and (J v)' u agree, as they must when J v and J' u belong to one J."""
    tolerance = 1e-6 if forward.dtype == torch.float64 else 1e-2
    return bool((forward - backward).abs() <= tolerance * (forward.abs() + backward.abs()))


@contextlib.contextmanager
def _differentiable_inference(model: nn.Module) -> Iterator[None]:
    """Inference mode for every module, gradients on, autocast off, attention in differentiable form."""
    training = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device.type
    model.eval()
    recurrent = any(isinstance(module, nn.RNNBase) for module in training)
    cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()  # no 2nd derivative
    try:
        with torch.enable_grad(), torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH), cudnn:
            yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
