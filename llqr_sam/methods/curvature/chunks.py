"""Curvature of a minibatch in chunks, when the whole does not fit in memory.

Every product linearises each chunk anew and forgets it, so memory is that of one chunk and a product costs about twice
what it does on a network linearised once.

With z the outputs of the minibatch, z_c its rows of chunk c, l the loss and l_c the loss of the chunk alone,

    g = sum_c w_c g_c     where     dl/dz_c = w_c dl_c/dz_c     for every chunk c

so the weights w_c are read off the loss itself: n_c / n for a mean over samples, the chunk's share of tokens for a mean
over those that are no padding. A loss that has no such weights (it compares samples with each other) or that is not
sum_c w_c l_c, and a network whose outputs for a chunk are not its rows of z, are refused. This costs two forward passes
without a graph, and holds the outputs of the whole minibatch and the loss's graph on them while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

CurvatureAt = Callable[[Any, Any], Curvature]
Evaluated = Callable[[Any, Callable[[Tensor], Any]], Any]


@dataclass(frozen=True)
class Minibatch:
    """A minibatch, and how it is cut.

    Attributes:
        inputs: Tensors in it, nested in tuples, lists or mappings, are split along the first axis where they have as
            many rows as the first of them; everything else is passed on to every chunk.
        targets: Likewise, with the rows of the inputs.
        loss_fn: ``loss_fn(outputs, targets)``, 0-d.
        chunk_size: Samples in a chunk; the last one's may be fewer.
    """

    inputs: Any
    targets: Any
    loss_fn: LossFunction
    chunk_size: int

    @property
    def size(self) -> int:
        """Samples.

        Raises:
            ValueError: there is no tensor that could hold them.
        """
        rows = next((len(tensor) for tensor in tensors(self.inputs) if tensor.ndim), None)
        if rows is None:
            raise ValueError(f"chunk_size={self.chunk_size} needs inputs with a tensor of samples, and there is none.")
        return rows

    def chunks(self) -> list[tuple[Any, Any]]:
        """Inputs and targets of each chunk."""
        size = self.size
        cuts = [slice(start, start + self.chunk_size) for start in range(0, size, self.chunk_size)]

        def cut(tree: Any, rows: slice) -> Any:
            return mapped(lambda t: t[rows] if t.ndim and len(t) == size else t, tree)

        return [(cut(self.inputs, rows), cut(self.targets, rows)) for rows in cuts]


class ChunkedCurvature:
    """g and H of a minibatch from those of its chunks.

    Args:
        curvature_at: Inputs and targets of a chunk to its curvature.
        evaluated: ``evaluated(inputs, make)``, what ``make`` returns for the network's outputs, without a graph.
        minibatch: The whole.
        likelihood: Under "ngd", the predictive distribution; ``None`` under "newton".
        summed: H is a sum over distributions ("ngd" with reduction "sum") and not a mean.
        eps: Spacing of the numbers that the network computes with, where they are coarser than its outputs' dtype.

    Raises:
        ValueError: the inputs have no samples to split, or the chunks do not add up to the whole.
    """

    def __init__(
        self,
        curvature_at: CurvatureAt,
        evaluated: Evaluated,
        minibatch: Minibatch,
        likelihood: Likelihood | None,
        *,
        summed: bool,
        eps: float = 0.0,
    ) -> None:
        self._curvature_at = curvature_at
        self._chunks = minibatch.chunks()
        parts = _Whole(evaluated, minibatch, likelihood, eps).parts(self._chunks)
        shares, count = [part.share for part in parts], sum(part.count for part in parts)
        if summed:
            self._weights = [1.0] * len(shares)
        elif likelihood is None:
            self._weights = shares
        else:
            self._weights = [part.count / max(count, 1.0) for part in parts]
        self.gradient = self._weighted(lambda curvature: curvature.gradient, shares)

    def product(self, v: Named) -> Named:
        """H v."""
        return self._weighted(lambda curvature: curvature.product(v), self._weights)

    def _weighted(self, read: Callable[[Curvature], Named], weights: list[float]) -> Named:
        total: Named = {}
        for weight, (inputs, targets) in zip(weights, self._chunks, strict=True):
            part = read(self._curvature_at(inputs, targets))
            if not total:
                total = {name: torch.zeros_like(x) for name, x in part.items()}
            if weight != 0:  # the mean over nothing but padding is not a number, and 0 times that is none either
                torch._foreach_add_(list(total.values()), [part[name] for name in total], alpha=weight)
        return total


@dataclass(frozen=True)
class _Part:
    """What a chunk is of the whole: w_c, its number of distributions (under "newton" of rows), and w_c l_c."""

    share: float
    count: float
    loss: float


class _Whole:
    """The outputs of the whole minibatch and the loss's gradient at them, to hold the chunks against.

    Under "newton" a second place, half of the outputs, tells whether the weights depend on the outputs: H would then
    have terms that no chunk has. The loss itself shows what depends on no output, such as a penalty on the weights.
    """

    def __init__(self, evaluated: Evaluated, minibatch: Minibatch, likelihood: Likelihood | None, eps: float) -> None:
        self._evaluated, self._minibatch, self._likelihood, self._eps = evaluated, minibatch, likelihood, eps
        self._places = (1.0,) if likelihood is not None else (1.0, 0.5)

    def parts(self, chunks: list[tuple[Any, Any]]) -> list[_Part]:
        """Each chunk's part.

        Raises:
            ValueError: the chunks do not add up to the whole.
        """
        batch = self._minibatch
        if len(chunks) < 2:
            return [_Part(1.0, 1.0, 0.0)] * len(chunks)
        z, loss, gradients = self._evaluated(batch.inputs, self._look)
        if not all(bool(u.isfinite().all()) for u in gradients):  # such a refresh keeps U, whatever the weights
            return [_Part(1 / len(chunks), 1.0, 0.0)] * len(chunks)
        rows_each, rest = divmod(len(z), batch.size)
        if rest:
            raise ValueError(self._complaint("the outputs have no row for each sample"))
        parts = []
        for number, (inputs, targets) in enumerate(chunks):
            start = number * batch.chunk_size * rows_each
            rows = slice(start, start + batch.chunk_size * rows_each)
            whole = [u[rows] for u in gradients]
            parts.append(self._evaluated(inputs, partial(self._part, targets, z[rows], whole)))
        together, scale = sum(part.loss for part in parts), sum(abs(part.loss) for part in parts)
        # The loss is computed from the same outputs, but may have terms that the network left somewhere.
        if abs(together - loss) > max(torch.finfo(z.dtype).eps ** 0.5, self._eps) * scale:
            raise ValueError(self._complaint("the losses of the chunks do not add up to that of the whole"))
        return parts

    def _look(self, z: Tensor) -> tuple[Tensor, float, list[Tensor]]:
        """The outputs, the loss, and its gradient at each place."""
        batch = self._minibatch
        derived = [at_outputs(batch.loss_fn, place * z, batch.targets) for place in self._places]
        return z, float(derived[0][0]), [u for _, u in derived]

    def _part(self, targets: Any, rows: Tensor, whole: list[Tensor], outputs: Tensor) -> _Part:
        """Of a chunk with these outputs, given its rows of the whole's outputs and of the gradients at each place."""
        precision = torch.finfo(rows.dtype).eps
        rounding = max(precision**0.3, 4 * self._eps)  # kernels depend on the batch size
        if outputs.shape != rows.shape or _differ(outputs, rows, rounding):
            raise ValueError(
                self._complaint("the outputs of a chunk are not its rows of the whole minibatch's outputs")
            )
        count = float(len(rows)) if self._likelihood is None else float(self._likelihood.fisher(rows, targets)[1])
        if not whole[0].any():
            return _Part(0.0, count, 0.0)
        derived = [at_outputs(self._minibatch.loss_fn, place * rows, targets) for place in self._places]
        loss, u = derived[0]
        share = float((u.double() * whole[0].double()).sum() / u.double().square().sum())
        if any(_differ(share * own, all_, precision**0.5) for (_, own), all_ in zip(derived, whole, strict=True)):
            raise ValueError(
                self._complaint("the loss is no mean over samples or tokens whose weights depend on targets alone")
            )
        return _Part(share, count, share * float(loss))

    def _complaint(self, fault: str) -> str:
        return (
            f"chunk_size={self._minibatch.chunk_size} does not fit this minibatch of {self._minibatch.size}: {fault}; "
            "docs/padding.md says what chunks need, and chunk_size=None needs none of it."
        )


def _differ(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether a is not b, or not a number."""
    return not bool((a - b).norm() <= tolerance * b.norm())
