"""Metrics for models whose geometry is given, and many independent runs in one optimizer."""

from __future__ import annotations

import torch
from torch import Tensor

from llqr_sam.methods.metrics import NORMS, TINY, Metric, Norm
from llqr_sam.methods.named import Named


class FixedMetric(Metric):
    """An inverse metric U that is given and stays.

    Args:
        matrix: U, symmetric positive definite ``[d, d]``, or its diagonal ``[d]``, for parameters
            ``[d]`` or ``[B, d]``.
    """

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def apply(self, v: Named) -> Named:
        """U v, row by row."""
        if self.matrix.ndim == 1:
            return {name: x * self.matrix for name, x in v.items()}
        return {name: x @ self.matrix for name, x in v.items()}


class Replicas(Metric):
    """A metric for parameters ``[B, d]`` whose rows are runs of their own: each row is normalised by itself.

    Args:
        metric: What is applied to the rows. ``Metric()`` makes B runs of plain SAM.

    ``SharpnessAware`` has one norm over all parameters, right for one network; here that would tie the runs together.
    """

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric, self.model, self.norm = metric, metric.model, metric.norm

    def apply(self, v: Named) -> Named:
        """U v."""
        return self.metric.apply(v)

    def probe(self, v: Named, rho: float, norm: Norm | None = None) -> Named:
        """eps = rho U v / norm(v) for each row (see ``Metric.probe``)."""
        norm = self.norm if norm is None else norm
        if norm not in NORMS:
            raise ValueError(f"norm={norm} is not known. Choose from: {', '.join(NORMS)}.")
        names, uv = list(v), self.apply(v)
        rows = [v[name].shape[0] for name in names]
        g, ug = (torch.cat([tensors[name] for name in names]) for tensors in (v, uv))
        squared = ug.square().sum(1, keepdim=True)
        if norm == "metric":
            quadratic = (g * ug).sum(1, keepdim=True)
            usable = torch.isfinite(quadratic) & (quadratic > 0)
            self._fallbacks = self._fallbacks + (~usable & (squared > 0)).sum()
            squared = torch.where(usable, quadratic, squared)
        return dict(zip(names, torch.split(ug * (rho / torch.sqrt(squared + TINY)), rows), strict=True))
