"""Curvature of a minibatch in chunks, when the whole does not fit in memory.

Every product linearises each chunk anew and forgets it, so memory is that of one chunk and a product costs about twice
what it does on a network linearised once.

With z the outputs of the minibatch, z_c its rows of chunk c, l the loss and l_c the loss of the chunk alone,

    g = sum_c w_c g_c     where     dl/dz_c = w_c dl_c/dz_c     for every chunk c

so the share w_c is read off the loss itself: n_c / n for a mean over samples, the chunk's share of tokens for a mean
over tokens without padding. Refused are a loss that has no such shares (it compares samples with each other) or is not
sum_c w_c l_c, and a network whose outputs for a chunk are not its rows of z. The check costs two forward passes without
a graph, and holds the outputs of the whole minibatch and the loss's graph on them while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llqr_sam.methods.curvature.agreement import at_outputs
from llqr_sam.methods.curvature.likelihoods import Likelihood
from llqr_sam.methods.curvature.point import LossFunction
from llqr_sam.methods.curvature.products import Curvature
from llqr_sam.methods.curvature.trees import mapped, tensors
from llqr_sam.methods.named import Named


class ChunkedCurvature:
    """g and H of a minibatch from those of its chunks.

    Args:
        curvature_at: Returns the curvature of a chunk, given its inputs and targets.
        evaluated: ``evaluated(inputs, make)``, what ``make`` returns for the network's outputs, without a graph.
        minibatch: Inputs, targets and ``loss_fn(outputs, targets)``. Tensors among inputs and targets are split along
            the first axis where they have as many rows as the first tensor of the inputs; the rest goes to every chunk.
        chunk_size: Samples in a chunk; the last one may have fewer.
        likelihood: Predictive distribution under "ngd"; ``None`` under "newton".
        summed: H is a sum over distributions ("ngd" with reduction "sum") and not a mean.
        eps: Relative spacing of the numbers that the network computes with, where coarser than its outputs' dtype.

    Raises:
        ValueError: the inputs have no samples to split, or the chunks do not add up to the whole.
    """

    def __init__(
        self,
        curvature_at: Callable[[Any, Any], Curvature],
        evaluated: Callable[[Any, Callable[[Tensor], Any]], Any],
        minibatch: tuple[Any, Any, LossFunction],
        chunk_size: int,
        likelihood: Likelihood | None,
        *,
        summed: bool,
        eps: float = 0.0,
    ) -> None:
        self._curvature_at, self._evaluated, self._likelihood, self._eps = curvature_at, evaluated, likelihood, eps
        inputs, self._targets, self._loss_fn = minibatch
        rows = next((len(tensor) for tensor in tensors(inputs) if tensor.ndim), None)
        if rows is None:
            raise ValueError(f"chunk_size={chunk_size} needs inputs with a tensor of samples, and there is none.")
        self._chunk_size, self._size = chunk_size, rows
        cuts = [slice(start, start + chunk_size) for start in range(0, rows, chunk_size)]
        self._chunks = [(self._cut(inputs, cut), self._cut(self._targets, cut)) for cut in cuts]
        # Under "newton" a second place, half of the outputs, shows whether the shares depend on the outputs: H would
        # then have terms that no chunk has. The loss itself shows what depends on no output, such as a penalty.
        self._places = (1.0,) if likelihood is not None else (1.0, 0.5)
        shares, counts = self._shares_and_counts(inputs) if len(cuts) > 1 else ([1.0] * len(cuts), [1.0] * len(cuts))
        self._weights = shares
        if summed:
            self._weights = [1.0] * len(shares)
        elif likelihood is not None:
            self._weights = [count / max(sum(counts), 1.0) for count in counts]
        self.gradient = self._weighted(lambda curvature: curvature.gradient, shares)

    def product(self, v: Named) -> Named:
        """H v."""
        return self._weighted(lambda curvature: curvature.product(v), self._weights)

    def _weighted(self, read: Callable[[Curvature], Named], weights: list[float]) -> Named:
        total: Named = {}
        for weight, (inputs, targets) in zip(weights, self._chunks, strict=True):
            term = read(self._curvature_at(inputs, targets))
            if not total:
                total = {name: torch.zeros_like(x) for name, x in term.items()}
            if weight != 0:  # the mean of a chunk of nothing but padding is not a number, and neither is 0 times that
                torch._foreach_add_(list(total.values()), [term[name] for name in total], alpha=weight)
        return total

    def _cut(self, tree: Any, rows: slice) -> Any:
        return mapped(lambda t: t[rows] if t.ndim and len(t) == self._size else t, tree)

    def _shares_and_counts(self, inputs: Any) -> tuple[list[float], list[float]]:
        """Each chunk's share w_c, and its number of distributions (under "newton" of rows)."""
        z, loss, gradients = self._evaluated(inputs, partial(self._at_places, self._targets))
        if not all(bool(u.isfinite().all()) for u in gradients):  # such a refresh keeps U, whatever the shares
            return [1 / len(self._chunks)] * len(self._chunks), [1.0] * len(self._chunks)
        rows_each, rest = divmod(len(z), self._size)
        if rest or not rows_each:
            raise self._misfit("the outputs have no row for each sample")
        pieces = [tensor.split(self._chunk_size * rows_each) for tensor in (z, *gradients)]
        found = [
            self._evaluated(chunk, partial(self._compared, targets, rows, whole))
            for (chunk, targets), rows, *whole in zip(self._chunks, *pieces, strict=True)
        ]
        shares, counts, losses = (list(column) for column in zip(*found, strict=True))
        # The loss is computed from the same outputs, but may have terms that the network left somewhere.
        tolerance = max(torch.finfo(z.dtype).eps ** 0.5, self._eps)
        if abs(sum(losses) - loss) > tolerance * sum(abs(term) for term in losses):
            raise self._misfit("the losses of the chunks do not add up to that of the whole")
        return shares, counts

    def _at_places(self, targets: Any, z: Tensor) -> tuple[Tensor, float, list[Tensor]]:
        """The outputs z, their loss, and its gradient at each place."""
        derived = [at_outputs(self._loss_fn, place * z, targets) for place in self._places]
        return z, float(derived[0][0]), [u for _, u in derived]

    def _compared(self, targets: Any, rows: Tensor, whole: list[Tensor], outputs: Tensor) -> tuple[float, float, float]:
        """A chunk's share, count and term of the loss.

        ``rows`` and ``whole`` are its rows of the whole minibatch's outputs and of the loss's gradient at each place;
        ``targets`` and ``outputs`` are its own.
        """
        precision = torch.finfo(rows.dtype).eps
        rounding = max(precision**0.3, 4 * self._eps)  # kernels depend on the batch size
        if outputs.shape != rows.shape or _differ(outputs, rows, rounding):
            raise self._misfit("the outputs of a chunk are not its rows of the whole minibatch's outputs")
        count = float(len(rows)) if self._likelihood is None else float(self._likelihood.fisher(rows, targets)[1])
        if not whole[0].any():
            return 0.0, count, 0.0
        _, loss, own = self._at_places(targets, rows)
        share = float((own[0].double() * whole[0].double()).sum() / own[0].double().square().sum())
        if any(_differ(share * u, expected, precision**0.5) for u, expected in zip(own, whole, strict=True)):
            raise self._misfit("the loss is no mean over samples or tokens whose weights depend on targets alone")
        return share, count, share * loss

    def _misfit(self, fault: str) -> ValueError:
        return ValueError(
            f"chunk_size={self._chunk_size} does not fit this minibatch of {self._size}: {fault}; "
            "docs/padding.md says what chunks need, and chunk_size=None needs none of it."
        )


def _differ(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether a and b differ by more than rounding, or one is not a number."""
    return not bool((a - b).norm() <= tolerance * b.norm())
