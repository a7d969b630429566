"""Blocks for embeddings: diagonal over the words, so that memory grows with the vocabulary and not with its square.

An embedding is a kernel of a row a word, W ``[K, n, m]``: n words, width m; so is an output projection that shares
its weight. Notation is that of block.py, with B = diag b and Q_B = I:

    kfac        U W = b W A'                               dJ/dA = -C' (b W)    dJ/db = -sum_m (C * W A')
    ekfac       U W = E Q_A', E = D * S, S = W Q_A         dJ/dD = -F * S       F = C Q_A
                                                           dJ/dQ_A = -[C' E + W' (D * F)]
"""

from __future__ import annotations

from torch import Tensor

from llqr_sam.methods.blocks.block import Factors, FreeBlock


class VocabularyKFAC(FreeBlock):
    """U W = b W A', A ``[K, m, m]`` over the width and b ``[K, n]`` over the words: m^2 + n scalars."""

    def identity(self) -> Factors:
        return {"A": self._eye(self.m), "b": self._ones(self.n)}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        return (factors["b"].unsqueeze(2) * stacked) @ factors["A"].mT

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        return {
            "A": -c.mT @ (factors["b"].unsqueeze(2) * w),
            "b": -(c * (w @ factors["A"].mT)).sum(dim=2),
        }


class VocabularyEKFAC(FreeBlock):
    """U W = (D * W Q_A) Q_A', Q_A ``[K, m, m]`` over the width, D ``[K, n, m]``: m^2 + mn scalars."""

    def identity(self) -> Factors:
        return {"Q_A": self._eye(self.m), "D": self._ones(self.n, self.m)}

    def product(self, factors: Factors, stacked: Tensor) -> Tensor:
        q = factors["Q_A"]
        return (factors["D"] * (stacked @ q)) @ q.mT

    def pullback(self, factors: Factors, w: Tensor, c: Tensor) -> Factors:
        q, d = factors["Q_A"], factors["D"]
        s, f = w @ q, c @ q
        return {"Q_A": -(c.mT @ (d * s) + w.mT @ (d * f)), "D": -f * s}
