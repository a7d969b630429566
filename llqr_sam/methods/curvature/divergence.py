"""The curvature that a divergence induces on a minibatch, whole or in chunks where that does not fit in memory.

In chunks, every product linearises each chunk anew and forgets it, at about twice the cost. With z_c the rows of chunk
c in the minibatch's outputs and l_c the loss of the chunk alone, g = sum_c w_c g_c where dl/dz_c = w_c dl_c/dz_c for
every c. So the share w_c is read off the loss; without such shares, or where a network mixes samples, it is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.methods.curvature.agreement import at_outputs
from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.likelihoods import Likelihood
from llqr_sam.methods.curvature.point import WHOLE, LossFunction, Made, Point, Precision, mapped, point_of, tensors
from llqr_sam.methods.curvature.products import Curvature, Divergence, Fisher, Hessian, Reduction
from llqr_sam.methods.named import Named


class DivergenceCurvature:
    """The curvature of one network under one divergence, at minibatch after minibatch; arguments as of ``LLQR``."""

    def __init__(
        self,
        model: nn.Module,
        divergence: Divergence,
        reduction: Reduction,
        likelihood: Likelihood,
        chunk_size: int | None,
        precision: Precision = WHOLE,
    ) -> None:
        untraced = "" if chunk_size is None else "chunk_size is given"
        self.matrix = Hessian(untraced) if divergence == "newton" else Fisher(likelihood, reduction, untraced)
        self._model, self._chunk_size, self._precision = model, chunk_size, precision
        self._warned = False  # of a likelihood that does not fit the loss

    @property
    def refusal(self) -> str:
        """Why the latest products do not come from a replayed trace; empty where they do."""
        return self.matrix.cache.refusal

    def at(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Curvature:
        """g and H on that minibatch; warns once of a likelihood that does not fit the loss."""
        point = point_of(self._model, inputs, targets, loss_fn, self._precision)
        self.matrix.comparing = True
        try:
            if self._chunk_size is None:
                curvature = self.matrix.at(point)
            else:
                chunks = _Chunks(self.matrix, point, self._chunk_size)
                curvature = Curvature(chunks.gradient, chunks.product)
        finally:
            self.matrix.comparing = False
        if self.matrix.complaint is not None and not self._warned:
            self._warned = True
            warnings.warn(self.matrix.complaint, stacklevel=4)  # past this call, refresh and its decorator
        return curvature


class _Chunks:
    """g and H of a minibatch from those of its chunks; ValueError where they do not add up to the whole."""

    def __init__(self, matrix: Fisher | Hessian, point: Point, chunk_size: int) -> None:
        self._matrix, self._chunk_size = matrix, chunk_size
        rows = next((len(tensor) for tensor in tensors(point.inputs) if tensor.ndim), None)
        if rows is None:
            raise ValueError(f"chunk_size={chunk_size} needs inputs with a tensor of samples, and there is none.")
        self._size = rows
        cuts = [slice(start, start + chunk_size) for start in range(0, rows, chunk_size)]
        self._chunks = [
            replace(point, inputs=self._cut(point.inputs, cut), targets=self._cut(point.targets, cut)) for cut in cuts
        ]
        shares, counts = self._shares_and_counts(point)
        means = shares if matrix.likelihood is None else [count / max(sum(counts), 1.0) for count in counts]
        self._weights = [1.0] * len(cuts) if matrix.summed else means
        self.gradient = self._weighted(lambda curvature: curvature.gradient, shares)

    def product(self, v: Named) -> Named:
        """H v."""
        return self._weighted(lambda curvature: curvature.product(v), self._weights)

    def _weighted(self, read: Callable[[Curvature], Named], weights: list[float]) -> Named:
        total: Named = {}
        for weight, chunk in zip(weights, self._chunks, strict=True):
            term = read(self._matrix.at(chunk))
            if not total:
                total = {name: torch.zeros_like(x) for name, x in term.items()}
            if weight != 0:  # the mean of a chunk of nothing but padding is not a number, and neither is 0 times that
                torch._foreach_add_(list(total.values()), [term[name] for name in total], alpha=weight)
        return total

    def _cut(self, tree: Any, rows: slice) -> Any:
        """The rows of all tensors that have one for each sample; the rest goes to every chunk."""
        return mapped(lambda t: t[rows] if t.ndim and len(t) == self._size else t, tree)

    def _shares_and_counts(self, point: Point) -> tuple[list[float], list[float]]:
        """Each chunk's share w_c, and its number of distributions (under "newton" of rows)."""
        alike = [1 / max(len(self._chunks), 1)] * len(self._chunks), [1.0] * len(self._chunks)
        if len(self._chunks) < 2:
            return alike
        z, loss, gradients = _without_graph(point, lambda z: (z, *self._at_places(point, z)))
        if not all(bool(u.isfinite().all()) for u in gradients):  # such a refresh keeps U, whatever the shares
            return alike
        rows_each, rest = divmod(len(z), self._size)
        if rest or not rows_each:
            raise self._misfit("the outputs have no row for each sample")
        pieces = [torch.split(tensor, self._chunk_size * rows_each) for tensor in (z, *gradients)]
        found = [
            _without_graph(chunk, partial(self._compared, chunk, rows, whole))
            for chunk, rows, *whole in zip(self._chunks, *pieces, strict=True)
        ]
        shares, counts, losses = (list(column) for column in zip(*found, strict=True))
        # The loss is computed from the same outputs, but may have terms that depend on none, such as a penalty.
        tolerance = max(torch.finfo(z.dtype).eps ** 0.5, point.precision.eps)
        if abs(sum(losses) - loss) > tolerance * sum(abs(term) for term in losses):
            raise self._misfit("the losses of the chunks do not add up to that of the whole")
        return shares, counts

    def _at_places(self, point: Point, z: Tensor) -> tuple[float, list[Tensor]]:
        """The loss of outputs z, and its gradient there and, under "newton", at half of them too."""
        # The second place shows whether the shares depend on the outputs: H would then have terms that no chunk has.
        places = (1.0, 0.5) if self._matrix.likelihood is None else (1.0,)
        derived = [at_outputs(point.loss_of, place * z) for place in places]
        return float(derived[0][0]), [u for _, u in derived]

    def _compared(self, chunk: Point, rows: Tensor, whole: list[Tensor], outputs: Tensor) -> tuple[float, float, float]:
        """A chunk's share, count and term of the loss, from its rows of the whole minibatch's outputs and gradients."""
        precision, eps = torch.finfo(rows.dtype).eps, chunk.precision.eps
        if outputs.shape != rows.shape or _differ(outputs, rows, max(precision**0.3, 4 * eps)):  # kernels vary in size
            raise self._misfit("the outputs of a chunk are not its rows of the whole minibatch's outputs")
        likelihood = self._matrix.likelihood
        count = float(len(rows)) if likelihood is None else float(likelihood.fisher(rows, chunk.targets)[1])
        if not whole[0].any():
            return 0.0, count, 0.0
        loss, own = self._at_places(chunk, rows)
        share = float((own[0].double() * whole[0].double()).sum() / own[0].double().square().sum())
        if any(_differ(share * u, expected, precision**0.5) for u, expected in zip(own, whole, strict=True)):
            raise self._misfit("the loss is no mean over samples or tokens whose weights depend on targets alone")
        return share, count, share * loss

    def _misfit(self, fault: str) -> ValueError:
        return ValueError(
            f"chunk_size={self._chunk_size} does not fit this minibatch of {self._size}: {fault}; "
            "docs/padding.md says what chunks need, and chunk_size=None needs none of it."
        )


def _without_graph(point: Point, make: Callable[[Tensor], Made]) -> Made:
    with differentiable_inference(point.model), torch.no_grad(), point.precision.products(point.device):
        return point.evaluated(make)


def _differ(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether a and b differ by more than rounding, or one is not a number."""
    return not bool((a - b).norm() <= tolerance * b.norm())
