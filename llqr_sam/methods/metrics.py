"""Inverse metrics M: in which geometry SAM's perturbation is measured.

    eps = rho M v / norm(v)      norm: sqrt(v' M v) (paper, eq. 1) or |M v|_2 (authors' code)

One global norm over all parameters. LLQR's U is a metric too (llqr.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llqr_sam.methods.distributed import unwrapped
from llqr_sam.methods.named import Named, dot, follow, single

Norm = Literal["metric", "euclidean"]
NORMS: tuple[Norm, ...] = ("metric", "euclidean")

TINY = 1e-12
"""Added to the squared norm, so that a zero gradient gives a zero perturbation (authors' code)."""


def require_radius(rho: float) -> None:
    """Refuses what is no radius.

    Raises:
        ValueError: rho is negative or not finite.
    """
    if not 0 <= rho < math.inf:
        raise ValueError(f"rho={rho} must be >= 0 and finite.")


class Metric:
    """The identity, and what every metric shares: SAM's Euclidean ball.

    Attributes:
        model: The network it is tied to, or ``None``.
        sharded: Whether it is spread over ranks, all of which must then apply it together.
        norm: Norm of its perturbation where the caller names none.
    """

    model: nn.Module | None = None
    sharded: bool = False
    norm: Norm = "metric"

    def __init__(self) -> None:
        self._fallbacks: Tensor | int = 0

    @property
    def fallbacks(self) -> int:
        """How many perturbations used the Euclidean norm because v' M v was not a positive number."""
        return int(self._fallbacks)

    def observe(self, gradients: Named) -> None:
        """Sees the minibatch gradient g at theta, once each step, before the metric is applied."""

    def apply(self, v: Named) -> Named:
        """M v, name -> tensor shaped like v: v's own tensors, or new ones that the caller may overwrite."""
        return v

    def apply_(self, v: Named) -> None:
        """Overwrites v with M v."""
        transported = self.apply(v)
        if v and transported is not v:
            torch._foreach_copy_(list(v.values()), [transported[name] for name in v])

    def probe(self, v: Named, rho: float, norm: Norm | None = None) -> Named:
        """Perturbation eps = rho M v / norm(v) (paper, eq. 1).

        Args:
            v: Ascent direction, name -> tensor shaped like the parameter.
            rho: Radius in the chosen norm, >= 0.
            norm: "metric" or "euclidean"; ``None`` is the metric's own.

        Returns:
            eps, shaped like v; in float32 where v is in half precision. Zero where v is zero.

        Raises:
            ValueError: rho is negative or not finite, or the norm unknown.

        Where v' M v is not a positive number (K-FAC blocks can be indefinite) the Euclidean norm of M v is used
        instead and ``fallbacks`` goes up by one. Nothing here waits for the device.
        """
        require_radius(rho)
        norm = self.norm if norm is None else norm
        if norm not in NORMS:
            raise ValueError(f"norm={norm} is not known. Choose from: {', '.join(NORMS)}.")
        applied = self.apply(v)
        mv = single(applied)
        if norm == "euclidean" or applied is v:
            squared = dot(mv, mv)
        else:  # wanted only where v' M v will not do: without the products' memory
            squared = torch.stack(torch._foreach_norm(list(mv.values()))).square().sum()
        if norm == "metric":
            quadratic = squared if applied is v else dot(v, mv)
            usable = torch.isfinite(quadratic) & (quadratic > 0)
            so_far = torch.as_tensor(self._fallbacks, device=squared.device)  # the model may have moved
            self._fallbacks = so_far + (~usable & (squared > 0))
            squared = torch.where(usable, quadratic, squared)
        scale = rho / torch.sqrt(squared + TINY)
        if any(x is v[name] for name, x in mv.items()):
            return dict(zip(mv, torch._foreach_mul(list(mv.values()), scale), strict=True))
        torch._foreach_mul_(list(mv.values()), scale)
        return mv

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"fallbacks": self.fallbacks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._fallbacks = int(state["fallbacks"])


class FisherDiagonal(Metric):
    """FisherSAM: an ellipsoid from the diagonal of the empirical Fisher matrix, g^2 elementwise.

    Args:
        eta: Regularisation of the inverse.
        form: "authors" M = 1 / (g^2 + eta) (LLQR+SAM authors' code) or "kim" M = 1 / (1 + eta g^2) (Kim et al. 2022).

    g is the minibatch mean gradient; a parameter that has none counts as one whose g is zero.

    Raises:
        ValueError: form is unknown or eta not positive.
    """

    def __init__(self, eta: float = 0.1, form: Literal["authors", "kim"] = "authors") -> None:
        super().__init__()
        if form not in ("authors", "kim"):
            raise ValueError(f"form={form} is not known. Choose from: authors, kim.")
        if eta <= 0:
            raise ValueError(f"eta={eta} must be > 0.")
        self.eta, self.form = eta, form
        self._inverse: Named = {}

    def observe(self, gradients: Named) -> None:
        """Takes the Fisher diagonal from this minibatch."""
        gradients = single(gradients)
        if self.form == "authors":
            self._inverse = {name: 1 / (g.square() + self.eta) for name, g in gradients.items()}
        else:
            self._inverse = {name: 1 / (1 + self.eta * g.square()) for name, g in gradients.items()}

    def apply(self, v: Named) -> Named:
        """M v."""
        absent = 1 / self.eta if self.form == "authors" else 1.0
        return {name: self._inverse.get(name, absent) * x for name, x in v.items()}


class Adaptive(Metric):
    """ASAM (Kwon et al. 2021): M = T^2, T = |theta| + eta for weights and 1 for biases.

    With norm "metric", eps = rho T^2 g / |T g|_2, the paper's.

    Args:
        model: Network whose parameters theta are read at each probe.
        eta: Added to every |theta|.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, eta: float = 0.01) -> None:
        super().__init__()
        if eta < 0:
            raise ValueError(f"eta={eta} must be >= 0.")
        self.model, self.eta = unwrapped(model), eta

    def apply(self, v: Named) -> Named:
        """T^2 v at the present parameters."""
        parameters = dict(self.model.named_parameters())  # looked up anew: a model may be given others
        return {
            name: x if name.endswith("bias") else (parameters[name].detach().abs() + self.eta).square() * x
            for name, x in v.items()
        }


class GradientNoise(Metric):
    """infoSAM, our reading: eps = rho D v / |D v|, D = 1 / (s + delta), s = EMA of (g - EMA(g))^2, elementwise.

    Args:
        decay: Of both averages; a first gradient starts the mean, and the variance starts at zero.
        delta: Added to the variance. It must lie below a gradient's usual noise variance per coordinate (1e-7 in a
            ResNet-18), else D is constant and the method is SAM.

    Raises:
        ValueError: decay is outside [0, 1) or delta not positive.

    Known: summaries of preSAM (arXiv 2501.06603) name two kinds of perturbation. One preconditions the constraint,
    eps = rho M v / sqrt(v' M v), norm "metric"; the other the objective, eps = rho D v / |D v|, norm "euclidean". The
    abstract of infoSAM "weights gradient components by their estimated variance" and gives no formula. Our reading:
    this is the second kind, hence the default norm; D is ours. The length of eps is then rho whatever the scale of s,
    so SAM's radius carries over.
    """

    norm: Norm = "euclidean"

    def __init__(self, decay: float = 0.9, delta: float = 1e-8) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1).")
        if delta <= 0:
            raise ValueError(f"delta={delta} must be > 0.")
        self.decay, self.delta = decay, delta
        self._mean: Named = {}
        self._variance: Named = {}

    def observe(self, gradients: Named) -> None:
        """Updates the running mean and variance of the gradient."""
        gradients = single(gradients)
        follow(self._mean, gradients)
        follow(self._variance, gradients)
        for name, g in gradients.items():
            if name not in self._mean:
                self._mean[name], self._variance[name] = g.clone(), torch.zeros_like(g)
            self._mean[name].lerp_(g, 1 - self.decay)
            self._variance[name].lerp_((g - self._mean[name]).square(), 1 - self.decay)

    def apply(self, v: Named) -> Named:
        """M v."""
        return {name: x / (self._variance.get(name, 0.0) + self.delta) for name, x in v.items()}

    def state_dict(self) -> dict[str, Any]:
        """Both averages."""
        return {**super().state_dict(), "mean": dict(self._mean), "variance": dict(self._variance)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        super().load_state_dict(state)
        self._mean = {name: t.clone() for name, t in state["mean"].items()}
        self._variance = {name: t.clone() for name, t in state["variance"].items()}
