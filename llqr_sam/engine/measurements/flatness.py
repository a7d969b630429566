"""How flat a run ends: the largest eigenvalues of the Hessian, its trace, and m-sharpness.

L is the training loss with label smoothing and flipped labels, without weight decay, on N training samples without
augmentation; these are the same for every method with the same seed. Float32, batch-norm in inference mode.

    eigenvalues   the largest of H = d2 L / d theta2, by implicitly restarted Lanczos (ARPACK)
    trace         tr H by Hutch++ (Meyer et al., arXiv 2010.09649), from curvlinops
    m-sharpness   mean over minibatches B of m samples of L_B(theta + rho g / |g|) - L_B(theta), g = grad L_B: the rise
                  of the loss by SAM's Euclidean perturbation (Foret et al., arXiv 2010.01412, section 4.1)

m is the protocol's batch size and rho the radius of its SAM, so all methods of a table are measured alike. N is the
largest multiple of m up to the number asked for, at least m. Products H v take two backward passes (``Hessian``):
curvlinops' own Hessian is forward over reverse, which torch 2.13 batches wrongly for layer norm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from curvlinops import hutchpp_trace
from curvlinops._torch_base import PyTorchLinearOperator
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor, nn
from torch.func import functional_call

from llqr_sam.data.streams import TrainStream
from llqr_sam.engine.records.record import Flatness
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Hessian

logger = logging.getLogger(__name__)

EIGENVALUES = 5
TOLERANCE = 1e-3  # relative, of an eigenvalue
TRACE_PRODUCTS = 30  # Hessian-vector products of Hutch++
SEED = 0  # of the start of Lanczos and of the vectors of Hutch++

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def measure_flatness(model: nn.Module, train: TrainStream, loss_fn: Loss, rho: float, m: int, samples: int) -> Flatness:
    """Flatness of a trained image classifier, which is not changed; ``train`` is not augmented, and rho > 0."""
    start = time.perf_counter()
    samples = max(1, min(samples, train.size) // m) * m
    inputs, targets = train.sample(0, samples)
    assert isinstance(inputs, Tensor)  # images
    batches = list(zip(torch.split(inputs, m), torch.split(targets, m), strict=True))
    hessian = TrainingHessian(model, batches, loss_fn)
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
            torch.manual_seed(SEED)
            return Flatness(
                eigenvalues=top_eigenvalues(hessian),
                trace=float(hutchpp_trace(hessian, TRACE_PRODUCTS)),
                m_sharpness=m_sharpness(model, batches, loss_fn, rho),
                rho=rho,
                m=m,
                samples=samples,
                seconds=time.perf_counter() - start,
            )
    finally:
        model.train(training)


class TrainingHessian(PyTorchLinearOperator):  # type: ignore[misc]  # curvlinops is not typed
    """H of the mean loss over minibatches of equal size, for curvlinops and SciPy."""

    SELF_ADJOINT = True

    def __init__(self, model: nn.Module, batches: Sequence[Batch], loss_fn: Loss) -> None:
        self._model, self._batches, self._loss_fn = model, batches, loss_fn
        self._hessian = Hessian("a trace costs more than a few products")
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        shapes = [tuple(parameter.shape) for parameter in self._parameters.values()]
        super().__init__(shapes, shapes)

    device = property(lambda self: next(iter(self._parameters.values())).device)
    dtype = property(lambda self: next(iter(self._parameters.values())).dtype)

    def _matmat(self, columns: list[Tensor]) -> list[Tensor]:
        """H V, where V and H V have one tensor ``[*shape, K]`` a parameter."""
        products = [torch.zeros_like(column) for column in columns]
        for inputs, targets in self._batches:
            curvature = self._hessian.at(point_of(self._model, inputs, targets, self._loss_fn))
            for k in range(columns[0].shape[-1]):
                v = {name: column[..., k] for name, column in zip(self._parameters, columns, strict=True)}
                for product, h_v in zip(products, curvature.product(v).values(), strict=True):
                    product[..., k] += h_v / len(self._batches)
        return products


def top_eigenvalues(hessian: TrainingHessian) -> list[float]:
    """The ``EIGENVALUES`` largest in descending order, as far as they converged."""
    operator = hessian.to_scipy()
    start = np.random.default_rng(SEED).standard_normal(operator.shape[0]).astype(operator.dtype)
    try:
        found = eigsh(operator, k=EIGENVALUES, which="LA", v0=start, tol=TOLERANCE, return_eigenvectors=False)
    except ArpackNoConvergence as error:
        logger.warning("%d of %d eigenvalues of the Hessian converged", len(error.eigenvalues), EIGENVALUES)
        found = error.eigenvalues
    return sorted(map(float, found), reverse=True)


def m_sharpness(model: nn.Module, batches: Sequence[Batch], loss_fn: Loss, rho: float) -> float:
    """Mean rise of a minibatch's loss at distance rho along its own gradient; exactly 0 at rho = 0."""

    def loss_at(point: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return loss_fn(functional_call(model, point, (inputs,)), targets)

    rises = []
    for batch in batches:
        theta = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
        with torch.enable_grad():  # for both losses: without it attention's kernel rounds differently
            loss = loss_at(theta, *batch)
            gradients = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            scale = rho / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # at a stationary point nothing is perturbed
            perturbed = {
                name: (p.detach() + scale * g).requires_grad_()
                for (name, p), g in zip(theta.items(), gradients, strict=True)
            }
            rises.append(loss_at(perturbed, *batch).detach() - loss.detach())
    return float(torch.stack(rises).mean())
