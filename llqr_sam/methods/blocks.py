"""Block structures of U: how each is applied, and how its factors learn.

A block holds all parameters of one matrix shape, stacked, so that one batched product serves them all.
Notation (layout.py): W = X' is a kernel's gradient, ``[K, n, m]``; C is dJ/d(delta) in the same shape,
delta = -U W; the pull-back of J to each factor is in closed form.

    diagonal    U x = d * x                                dJ/dd = -x * C
    kfac        U W = B W A'                               dJ/dA = -C' B W      dJ/dB = -C (W A')'
    ekfac       U W = Q_B E Q_A', E = D * S,               dJ/dD = -F * S
                S = Q_B' W Q_A, F = Q_B' C Q_A             dJ/dQ_B = -[C Q_A E' + W Q_A (D * F)']
                                                           dJ/dQ_A = -[C' Q_B E + W' Q_B (D * F)]
    diag_kfac   U W = b W a'  (outer product, elementwise)  dJ/da = -sum_n (C * b W), dJ/db = -sum_m (C * W a')
    dense       U w = U w, w = vec W                       dJ/dU = -c w'

All start at the identity. Factors are free: neither orthogonality nor symmetry is enforced (authors' code).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from llqr_sam.methods.descent import HeavyBall
from llqr_sam.methods.layout import Kernel, Vector
from llqr_sam.methods.named import Named

Factors = dict[str, Tensor]


class Learner(Protocol):
    """The factors of one block during the inner loop of a refresh."""

    def apply(self) -> Tensor:
        """U g under the present factors, in memory of its own."""
        ...

    def descend(self, c: Tensor) -> None:
        """One heavy-ball step on J, given C = g + H delta, which may be overwritten."""
        ...

    def factors(self) -> Factors:
        """The factors learned so far."""
        ...


class Block(ABC):
    """U restricted to parameters that are treated alike."""

    factors: Factors
    """Name -> stacked factor, first axis K."""

    @abstractmethod
    def gather(self, named: Mapping[str, Tensor]) -> Tensor:
        """The block's part of a named vector, stacked; parameters that are absent count as zero."""

    @abstractmethod
    def scatter(self, stacked: Tensor) -> Named:
        """Inverse of ``gather``."""

    @abstractmethod
    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        """U x under the given factors, stacked."""

    def apply(self, stacked: Tensor) -> Tensor:
        """U x, stacked."""
        return self.product(self.factors, stacked)

    @abstractmethod
    def learner(self, gradient: Tensor, descent: HeavyBall) -> Learner:
        """Starts an inner loop at the present factors for that stacked gradient, momentum zero."""

    @abstractmethod
    def named_factors(self) -> dict[str, Factors]:
        """Parameter name -> its own factors (views)."""

    def apply_named(self, named: Mapping[str, Tensor]) -> Named:
        """U x on the entries of ``named`` that belong to this block, in their own dtype."""
        transported = self.scatter(self.apply(self.gather(named)))
        return {name: x.to(named[name].dtype) for name, x in transported.items() if name in named}

    def apply_named_(self, named: Mapping[str, Tensor]) -> None:
        """Overwrites x with U x on the entries of ``named`` that belong to this block."""
        transported = self.apply_named(named)
        if transported:
            torch._foreach_copy_([named[name] for name in transported], list(transported.values()))

    def average(self, learned: Factors, ema: float) -> None:
        """U <- ema U + (1 - ema) U_T, factor by factor."""
        for name, factor in self.factors.items():
            factor.mul_(ema).add_(learned[name], alpha=1 - ema)


class FreeBlock(Block):
    """A block whose factor gradients are cheap enough to be formed, so one learner serves all its kinds."""

    @abstractmethod
    def pullback(self, factors: Factors, x: Tensor, c: Tensor) -> Factors:
        """dJ/dfactor for each factor; c may be overwritten."""

    def step(self, descent: HeavyBall, factor: Tensor, buffer: Tensor, gradient: Tensor) -> None:
        """One inner step on one factor, each entry of the stack clipped by itself."""
        descent.step(factor, buffer, gradient)

    def learner(self, gradient: Tensor, descent: HeavyBall) -> Learner:
        """See ``Block``."""
        return FreeLearner(self, gradient, descent)


class FreeLearner:
    """Heavy ball on explicit factors."""

    def __init__(self, block: FreeBlock, gradient: Tensor, descent: HeavyBall) -> None:
        self._block, self._gradient, self._descent = block, gradient, descent
        self._factors = {name: factor.clone() for name, factor in block.factors.items()}
        self._buffers = {name: torch.zeros_like(factor) for name, factor in block.factors.items()}

    def apply(self) -> Tensor:
        """See ``Learner``."""
        return self._block.product(self._factors, self._gradient)

    def descend(self, c: Tensor) -> None:
        """See ``Learner``."""
        pulled = self._block.pullback(self._factors, self._gradient, c)
        for name, gradient in pulled.items():
            self._block.step(self._descent, self._factors[name], self._buffers[name], gradient)

    def factors(self) -> Factors:
        """See ``Learner``."""
        return self._factors


class Diagonal(FreeBlock):
    """Elementwise U of any number of tensors of any shapes, in one flat vector.

    Args:
        parameters: The tensors it covers.
        joint: Clip the tensors of a layer as one vector (authors' code, structure diagonal) or each by itself.
        dtype, device: Of the factor.
    """

    floor: ClassVar[float] = 1e-8
    """Smallest entry after averaging (authors' code)."""

    def __init__(self, parameters: Sequence[Vector], *, joint: bool, dtype: torch.dtype, device: torch.device) -> None:
        self._names = [p.name for p in parameters]
        self._shapes = [p.shape for p in parameters]
        self._sizes = [p.shape.numel() for p in parameters]
        groups = {key: i for i, key in enumerate(dict.fromkeys(p.layer if joint else p.name for p in parameters))}
        group = torch.tensor([groups[p.layer if joint else p.name] for p in parameters], device=device)
        self._group, self._group_count = group, len(groups)
        self._lengths = torch.tensor(self._sizes, device=device)
        self.factors = {"d": torch.ones(1, sum(self._sizes), dtype=dtype, device=device)}
        self._scales = self.scatter(self.factors["d"])  # views

    def gather(self, named: Mapping[str, Tensor]) -> Tensor:
        """Named tensors -> ``[1, P]``."""
        d = self.factors["d"]
        parts = [
            named[name].reshape(-1).to(d.dtype) if name in named else d.new_zeros(size)
            for name, size in zip(self._names, self._sizes, strict=True)
        ]
        return torch.cat(parts).unsqueeze(0)

    def scatter(self, stacked: Tensor) -> Named:
        """``[1, P]`` -> named tensors (views)."""
        pieces = torch.split(stacked.squeeze(0), self._sizes)
        return {n: x.view(s) for n, x, s in zip(self._names, pieces, self._shapes, strict=True)}

    def apply_named(self, named: Mapping[str, Tensor]) -> Named:
        """d * x without gathering: one fused multiply over the tensors as they are."""
        scales, gradients = self._paired(named)
        if not gradients:
            return {}
        return dict(zip(gradients, torch._foreach_mul(scales, list(gradients.values())), strict=True))

    def apply_named_(self, named: Mapping[str, Tensor]) -> None:
        """The same fused multiply in place: nothing is allocated."""
        scales, gradients = self._paired(named)
        if gradients:
            torch._foreach_mul_(list(gradients.values()), scales)

    def _paired(self, named: Mapping[str, Tensor]) -> tuple[list[Tensor], Named]:
        """d and x of the entries that belong to this block, alike in order and dtype."""
        gradients = {name: named[name] for name in self._names if name in named}
        return [self._scales[name].to(x.dtype) for name, x in gradients.items()], gradients

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        """d * x."""
        return factors["d"] * stacked

    def pullback(self, factors: Factors, x: Tensor, c: Tensor) -> Factors:
        """dJ/dd."""
        return {"d": c.mul_(x).neg_()}

    def step(self, descent: HeavyBall, factor: Tensor, buffer: Tensor, gradient: Tensor) -> None:
        """One inner step, clipped per tensor or per layer."""
        norms = torch.stack(torch._foreach_norm(torch.split(gradient.squeeze(0), self._sizes)))
        squared = norms.new_zeros(self._group_count).index_add_(0, self._group, norms.square())
        clip = descent.clip(squared)[self._group].repeat_interleave(self._lengths, output_size=factor.shape[1])
        descent.move(factor, buffer.mul_(descent.momentum).addcmul_(gradient, clip))

    def named_factors(self) -> dict[str, Factors]:
        """See ``Block``."""
        return {name: {"d": d} for name, d in self._scales.items()}

    def average(self, learned: Factors, ema: float) -> None:
        """Average, then keep every entry at least ``floor``."""
        super().average(learned, ema)
        self.factors["d"].clamp_min_(self.floor)


class KernelBlock(Block):
    """A block of kernels of one matrix shape, ``[K, n, m]``; K counts matrices, three for a fused attention weight.

    Args:
        kernels: The parameters it covers.
        dtype, device: Of the factors.
        apply_dtype: Of the products in ``apply``; default ``dtype``. The factors themselves learn in ``dtype``.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        *,
        dtype: torch.dtype,
        device: torch.device,
        apply_dtype: torch.dtype | None = None,
    ) -> None:
        self._kernels = list(kernels)
        self.count = sum(kernel.parts for kernel in kernels)
        self.n, self.m = kernels[0].n, kernels[0].m
        self._blank = torch.zeros((), dtype=dtype, device=device)
        self.factors = self.identity()
        self._apply_dtype = apply_dtype or dtype
        self._rounded: tuple[list[int], Factors] = ([], {})

    @abstractmethod
    def identity(self) -> Factors:
        """Factors of U = I."""

    def apply(self, stacked: Tensor) -> Tensor:
        """U x, stacked, with factors rounded to ``apply_dtype`` once after each change of theirs."""
        if self._apply_dtype == stacked.dtype:
            return self.product(self.factors, stacked)
        versions = [factor._version for factor in self.factors.values()]
        if self._rounded[0] != versions:
            self._rounded = versions, {name: f.to(self._apply_dtype) for name, f in self.factors.items()}
        return self.product(self._rounded[1], stacked.to(self._apply_dtype)).to(stacked.dtype)

    def gather(self, named: Mapping[str, Tensor]) -> Tensor:
        """Named tensors -> ``[K, n, m]``."""
        dtype = self._blank.dtype
        return torch.cat(
            [
                kernel.matrices(named[kernel.name].to(dtype))
                if kernel.name in named
                else self._blank.expand(kernel.parts, self.n, self.m)
                for kernel in self._kernels
            ]
        )

    def scatter(self, stacked: Tensor) -> Named:
        """``[K, n, m]`` -> named tensors."""
        pieces = torch.split(stacked, [kernel.parts for kernel in self._kernels])
        return {k.name: k.tensor(piece) for k, piece in zip(self._kernels, pieces, strict=True)}

    def named_factors(self) -> dict[str, Factors]:
        """See ``Block``; each factor keeps its axis of parts."""
        pieces = {name: torch.split(f, [k.parts for k in self._kernels]) for name, f in self.factors.items()}
        return {k.name: {name: p[i] for name, p in pieces.items()} for i, k in enumerate(self._kernels)}

    def _eye(self, size: int) -> Tensor:
        eye = torch.eye(size, dtype=self._blank.dtype, device=self._blank.device)
        return eye.expand(self.count, size, size).contiguous()

    def _ones(self, *shape: int) -> Tensor:
        return self._blank.new_ones(self.count, *shape)


class DiagKFAC(FreeBlock, KernelBlock):
    """U W = b W a', a over the fan-in and b over the fan-out."""

    def identity(self) -> Factors:
        """a = 1 ``[K, m]``, b = 1 ``[K, n]``."""
        return {"a": self._ones(self.m), "b": self._ones(self.n)}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        """b W a'."""
        return stacked * factors["a"].unsqueeze(1) * factors["b"].unsqueeze(2)

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        """dJ/da and dJ/db."""
        cw = c * w
        return {
            "a": -torch.einsum("knm,kn->km", cw, factors["b"]),
            "b": -torch.einsum("knm,km->kn", cw, factors["a"]),
        }


class Dense(FreeBlock, KernelBlock):
    """A full matrix on each vectorised kernel: (mn)^2 scalars, for tests and toys only."""

    def identity(self) -> Factors:
        """U = I, ``[K, nm, nm]``."""
        return {"U": self._eye(self.n * self.m)}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        """U vec W."""
        return (factors["U"] @ stacked.flatten(1).unsqueeze(2)).view_as(stacked)

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        """dJ/dU."""
        return {"U": -c.flatten(1).unsqueeze(2) @ w.flatten(1).unsqueeze(1)}
