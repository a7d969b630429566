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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llqr_sam.methods.blocks.layout import Kernel
from llqr_sam.methods.named import Named

Factors = dict[str, Tensor]


@dataclass(frozen=True)
class HeavyBall:
    """G <- G clip / max(clip, |G|), buf <- G + momentum buf, U <- U - lr buf: an inner step (LLQR paper, Alg. 2)."""

    lr: float = 1e-3
    momentum: float = 0.9
    clip_norm: float = 5.0  # L2 norm to which each factor's gradient is clipped

    def clip(self, squared_norm: Tensor) -> Tensor:
        """Factor in (0, 1] that clips a gradient of that squared norm; any shape, elementwise."""
        return self.clip_norm / squared_norm.clamp_min(0).sqrt().clamp_min(self.clip_norm)

    def step(self, factor: Tensor, buffer: Tensor, gradient: Tensor) -> None:
        """One inner step in place on a stack of factors, ``[K, ...]``, each clipped by itself."""
        squared_norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1).square()
        clip = self.clip(squared_norm).view(-1, *[1] * (gradient.ndim - 1))
        self.move(factor, buffer.mul_(self.momentum).addcmul_(gradient, clip))

    def move(self, factor: Tensor, buffer: Tensor) -> None:
        """U <- U - lr * buf, in place."""
        factor.add_(buffer, alpha=-self.lr)


class Learner(ABC):
    """The factors of one block during the inner loop of a refresh."""

    @abstractmethod
    def apply(self) -> Named:
        """U g under the present factors, name -> tensor; the caller may overwrite it, and so may ``descend``."""

    @abstractmethod
    def descend(self, c: Named) -> None:
        """One heavy-ball step on J, given c = g + H delta."""

    @abstractmethod
    def factors(self) -> Factors:
        """The factors learned so far."""


class Block(ABC):
    """U restricted to parameters that are treated alike."""

    factors: Factors  # name -> stacked factor, first axis K

    @abstractmethod
    def learner(self, gradient: Named, descent: HeavyBall) -> Learner:
        """Starts an inner loop at the present factors for that gradient, momentum zero."""

    @abstractmethod
    def named_factors(self) -> dict[str, Factors]:
        """Parameter name -> its own factors (views; a kernel's keep their axis of parts)."""

    @abstractmethod
    def apply(self, named: Mapping[str, Tensor]) -> Named:
        """U x on the entries of ``named`` that belong to this block, in their own dtype."""

    def apply_(self, named: Mapping[str, Tensor]) -> None:
        """Overwrites x with U x on the entries of ``named`` that belong to this block."""
        transported = self.apply(named)
        if transported:
            torch._foreach_copy_([named[name] for name in transported], list(transported.values()))

    def average(self, learned: Factors, ema: float) -> None:
        """U <- ema U + (1 - ema) U_T, factor by factor."""
        for name, factor in self.factors.items():
            factor.mul_(ema).add_(learned[name], alpha=1 - ema)


class KernelBlock(Block):
    """A block of kernels of one matrix shape, ``[K, n, m]``; K counts matrices, three for a fused attention weight."""

    axes: ClassVar[dict[str, str]]
    """Factor -> its axes, of n, m and p = nm: two equal ones are the identity at first, others are ones."""
    learner_type: ClassVar[Callable[..., Learner]]
    """Makes the learner from the block, its stacked gradient and the heavy ball."""

    def __init__(
        self, kernels: list[Kernel], *, dtype: torch.dtype, device: torch.device, apply_dtype: torch.dtype | None = None
    ) -> None:
        self._kernels = kernels
        self.count = sum(kernel.parts for kernel in kernels)
        self.n, self.m = kernels[0].n, kernels[0].m
        self._blank = torch.zeros((), dtype=dtype, device=device)
        self.factors = {}
        sizes = {"n": self.n, "m": self.m, "p": self.n * self.m}
        for name, axes in self.axes.items():
            shape = [sizes[axis] for axis in axes]
            start = torch.eye if axes in ("nn", "mm", "pp") else torch.ones
            self.factors[name] = start(*shape, dtype=dtype, device=device).expand(self.count, *shape).contiguous()
        self._apply_dtype = apply_dtype or dtype
        self._rounded: tuple[list[int], Factors] = ([], {})

    @abstractmethod
    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        """U x under the given factors, stacked."""

    def learner(self, gradient: Named, descent: HeavyBall) -> Learner:
        return self.learner_type(self, self.gather(gradient), descent)

    def apply(self, named: Mapping[str, Tensor]) -> Named:
        transported = self.scatter(self.apply_stacked(self.gather(named)))
        return {name: x.to(named[name].dtype) for name, x in transported.items() if name in named}

    def apply_stacked(self, stacked: Tensor) -> Tensor:
        """U x, stacked, with factors rounded to ``apply_dtype`` once after each change of theirs."""
        if self._apply_dtype == stacked.dtype:
            return self.product(self.factors, stacked)
        versions = [factor._version for factor in self.factors.values()]
        if self._rounded[0] != versions:
            self._rounded = versions, {name: f.to(self._apply_dtype) for name, f in self.factors.items()}
        return self.product(self._rounded[1], stacked.to(self._apply_dtype)).to(stacked.dtype)

    def gather(self, named: Mapping[str, Tensor]) -> Tensor:
        """Named tensors -> ``[K, n, m]``; parameters that are absent count as zero."""
        dtype = self._blank.dtype
        matrices = [
            k.matrices(named[k.name].to(dtype)) if k.name in named else self._blank.expand(k.parts, self.n, self.m)
            for k in self._kernels
        ]
        return torch.cat(matrices)

    def scatter(self, stacked: Tensor) -> Named:
        """``[K, n, m]`` -> named tensors; inverse of ``gather``."""
        pieces = torch.split(stacked, [kernel.parts for kernel in self._kernels])
        return {k.name: k.tensor(piece) for k, piece in zip(self._kernels, pieces, strict=True)}

    def named_factors(self) -> dict[str, Factors]:
        pieces = {name: torch.split(f, [k.parts for k in self._kernels]) for name, f in self.factors.items()}
        return {k.name: {name: p[i] for name, p in pieces.items()} for i, k in enumerate(self._kernels)}


class FreeLearner(Learner):
    """Heavy ball on explicit factors, whose gradients the block's ``pullback`` forms."""

    def __init__(self, block: FreeBlock, gradient: Tensor, descent: HeavyBall) -> None:
        self._block, self._gradient, self._descent = block, gradient, descent
        self._factors = {name: factor.clone() for name, factor in block.factors.items()}
        self._buffers = {name: torch.zeros_like(factor) for name, factor in block.factors.items()}

    def apply(self) -> Named:
        return self._block.scatter(self._block.product(self._factors, self._gradient))

    def descend(self, c: Named) -> None:
        gradients = self._block.pullback(self._factors, self._gradient, self._block.gather(c))
        for name, gradient in gradients.items():
            self._descent.step(self._factors[name], self._buffers[name], gradient)

    def factors(self) -> Factors:
        return self._factors


class FreeBlock(KernelBlock):
    """A block whose factor gradients are cheap enough to be formed."""

    learner_type = FreeLearner

    @abstractmethod
    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        """dJ/dfactor for each factor."""


class DiagKFAC(FreeBlock):
    """U W = b W a', a ``[K, m]`` over the fan-in and b ``[K, n]`` over the fan-out."""

    axes: ClassVar = {"a": "m", "b": "n"}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        return stacked * factors["a"].unsqueeze(1) * factors["b"].unsqueeze(2)

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        cw = c * w
        a, b = torch.einsum("knm,kn->km", cw, factors["b"]), torch.einsum("knm,km->kn", cw, factors["a"])
        return {"a": -a, "b": -b}


class Dense(FreeBlock):
    """A full matrix ``[K, nm, nm]`` on each vectorised kernel, for tests and toys only."""

    axes: ClassVar = {"U": "pp"}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        return (factors["U"] @ stacked.flatten(1).unsqueeze(2)).view_as(stacked)

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        return {"U": -c.flatten(1).unsqueeze(2) @ w.flatten(1).unsqueeze(1)}
