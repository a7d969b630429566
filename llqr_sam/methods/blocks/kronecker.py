"""Kronecker-factored blocks, and inner loops that avoid m x m products.

The inner loops are written for n <= m, the short side first; a tall kernel (n > m) is handled transposed, with its two
sides exchanged. ``short`` is the square factor of the short side, ``[K, n, n]``, ``long`` that of the long side,
``[K, m, m]``.

An embedding is a kernel of a row a word, n words of width m; so is an output projection that shares its weight. Its
blocks are diagonal over the words, B = diag b and Q_B = I, so that memory does not grow with the square of n:

    kfac        U W = b W A'                               dJ/dA = -C' (b W)    dJ/db = -sum_m (C * W A')
    ekfac       U W = E Q_A', E = D * S, S = W Q_A         dJ/dD = -F * S       F = C Q_A
                                                           dJ/dQ_A = -[C' E + W' (D * F)]
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from llqr_sam.methods.blocks.block import Factors, FreeBlock, HeavyBall, KernelBlock, Learner
from llqr_sam.methods.named import Named


class _TwoSidedLearner(Learner):
    """The gradient W with its short side first, W W', and the factor of the short side."""

    sides: ClassVar[tuple[str, str]]  # names of the factors on the fan-in and on the fan-out

    def __init__(self, block: KernelBlock, gradient: Tensor, descent: HeavyBall) -> None:
        self._block, self._descent, self._tall = block, descent, block.n > block.m
        self._short_name, self._long_name = self.sides if self._tall else self.sides[::-1]
        self._w = self._short_first(gradient).contiguous()
        self._gram = self._w @ self._w.mT
        self._short = block.factors[self._short_name].clone()
        self._short_buffer = torch.zeros_like(self._short)

    def _short_first(self, matrices: Tensor) -> Tensor:
        """``[K, n, m]`` as it is, or transposed where n > m; its own inverse."""
        return matrices.mT if self._tall else matrices


class KFACLearner(_TwoSidedLearner):
    """K-FAC's inner loop in O(mn min(m, n)) a step (docs/methods.md, section 2.4).

    With W fixed, dJ/dlong = -(short' C)' W, so the momentum buffer is -Q' W and long_t = long_0 + R' W with
    Q, R in R^{n x m}. Only W long' is needed on the way: W long_0' + (W W') R, an n x n product.
    """

    sides = ("A", "B")

    def __init__(self, block: KernelBlock, gradient: Tensor, descent: HeavyBall) -> None:
        super().__init__(block, gradient, descent)
        self._long_start = block.factors[self._long_name]
        self._w_long = self._w_long_start = self._w @ self._long_start.mT
        self._q, self._r = torch.zeros_like(self._w), torch.zeros_like(self._w)

    def apply(self) -> Named:
        return self._block.scatter(self._short_first(matmul(self._short, self._w_long)))

    def descend(self, named: Named) -> None:
        c = self._short_first(self._block.gather(named))
        p = matmul(self._short.mT, c)
        squared_norm = (matmul(p, p.mT) * self._gram).sum((1, 2))  # |p' W|^2
        clip = self._descent.clip(squared_norm).view(-1, 1, 1)
        short_gradient = -matmul(c, self._w_long.mT)
        self._descent.step(self._short, self._short_buffer, short_gradient)
        self._q.mul_(self._descent.momentum).addcmul_(p, clip)
        self._r.add_(self._q, alpha=self._descent.lr)
        self._w_long = self._w_long_start + matmul(self._gram, self._r)

    def factors(self) -> Factors:
        long = torch.baddbmm(self._long_start, self._r.mT, self._w)  # formed here, once
        return {self._short_name: self._short, self._long_name: long}


class KFAC(KernelBlock):
    """U W = B W A' (the paper's A X B'), A ``[K, m, m]`` on the fan-in, B ``[K, n, n]`` on the fan-out."""

    axes: ClassVar = {"A": "mm", "B": "nn"}
    learner_type = KFACLearner

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        return matmul(matmul(factors["B"], stacked), factors["A"].mT)


class EKFACLearner(_TwoSidedLearner):
    """E-KFAC's inner loop with four m^2 n products a step (docs/methods.md, section 2.4).

    dJ/dlong = -[C; W]' [short E; short (D * F)], a product of 2n inner columns: its norm comes from Gram matrices, and
    W long, which every step needs, follows the long side's momentum through W W' instead of being formed again.
    """

    sides = ("Q_A", "Q_B")

    def __init__(self, block: KernelBlock, gradient: Tensor, descent: HeavyBall) -> None:
        super().__init__(block, gradient, descent)
        self._long = block.factors[self._long_name].clone()
        self._scale = self._short_first(block.factors["D"]).clone(memory_format=torch.contiguous_format)
        self._long_buffer = torch.zeros_like(self._long)
        self._scale_buffer = torch.zeros_like(self._scale)
        self._w_long = self._w @ self._long
        self._w_long_buffer = torch.zeros_like(self._w_long)

    def apply(self) -> Named:
        """short (D * S) long', S = short' W long."""
        scaled = self._scale * matmul(self._short.mT, self._w_long)
        return self._block.scatter(self._short_first(matmul(self._short, matmul(scaled, self._long.mT))))

    def descend(self, named: Named) -> None:
        c = self._short_first(self._block.gather(named))
        s = matmul(self._short.mT, self._w_long)
        c_long = matmul(c, self._long)
        f = matmul(self._short.mT, c_long)
        e, df = self._scale * s, self._scale * f
        short_gradient = -(matmul(c_long, e.mT) + matmul(self._w_long, df.mT))
        left = torch.cat([c, self._w], dim=1)
        right = torch.cat([matmul(self._short, e), matmul(self._short, df)], dim=1)
        descent = self._descent
        squared_norm = ((left @ left.mT) * (right @ right.mT)).sum((1, 2))  # of dJ/dlong = -left' right
        right = right * descent.clip(squared_norm).view(-1, 1, 1)
        w_left = torch.cat([matmul(self._w, left[:, : self._w.shape[1]].mT), self._gram], dim=2)
        descent.move(self._long, self._long_buffer.baddbmm_(left.mT, right, beta=descent.momentum, alpha=-1))
        descent.move(self._w_long, self._w_long_buffer.baddbmm_(w_left, right, beta=descent.momentum, alpha=-1))
        descent.step(self._short, self._short_buffer, short_gradient)
        descent.step(self._scale, self._scale_buffer, -(f * s))

    def factors(self) -> Factors:
        return {self._short_name: self._short, self._long_name: self._long, "D": self._short_first(self._scale)}


class EKFAC(KernelBlock):
    """U W = Q_B (D * (Q_B' W Q_A)) Q_A', Q_A ``[K, m, m]``, Q_B ``[K, n, n]``, D ``[K, n, m]``."""

    axes: ClassVar = {"Q_A": "mm", "Q_B": "nn", "D": "nm"}
    learner_type = EKFACLearner

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        q_a, q_b = factors["Q_A"], factors["Q_B"]
        inside = factors["D"] * matmul(matmul(q_b.mT, stacked), q_a)
        return matmul(matmul(q_b, inside), q_a.mT)


class VocabularyKFAC(FreeBlock):
    """U W = b W A', A ``[K, m, m]`` over the width and b ``[K, n]`` over the words: m^2 + n scalars."""

    axes: ClassVar = {"A": "mm", "b": "n"}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        return (factors["b"].unsqueeze(2) * stacked) @ factors["A"].mT

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        return {"A": -c.mT @ (factors["b"].unsqueeze(2) * w), "b": -(c * (w @ factors["A"].mT)).sum(dim=2)}


class VocabularyEKFAC(FreeBlock):
    """U W = (D * W Q_A) Q_A', Q_A ``[K, m, m]`` over the width, D ``[K, n, m]``: m^2 + mn scalars."""

    axes: ClassVar = {"Q_A": "mm", "D": "nm"}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        q = factors["Q_A"]
        return (factors["D"] * (stacked @ q)) @ q.mT

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        q, d = factors["Q_A"], factors["D"]
        s, f = w @ q, c @ q
        return {"Q_A": -(c.mT @ (d * s) + w.mT @ (d * f)), "D": -f * s}


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for two stacks of matrices; one by one where a CPU's batched product leaves cores idle."""
    if a.device.type == "cpu" and max(a[0].numel(), b[0].numel()) >= _LARGE:
        return torch.stack([x @ y for x, y in zip(a, b, strict=True)])
    return a @ b


_LARGE = 2**21  # entries of a matrix from which one product keeps all cores busy; measured, docs/performance.md
