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
from llqr_sam.methods.named import Named, dot, float32_if_half, follow, squared_norm

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
        mv = float32_if_half(applied)
        squared = squared_norm(mv)
        if norm == "metric" and applied is not v:  # for the identity both norms are the same
            quadratic = torch.nan_to_num(dot(v, mv), nan=0.0, posinf=0.0, neginf=0.0)
            squared = torch.where(quadratic > 0, quadratic, squared)
            so_far = torch.as_tensor(self._fallbacks, device=squared.device)  # the model may have moved
            self._fallbacks = so_far + (squared > quadratic)
        scale = torch.rsqrt(squared + TINY)
        if rho != 1:  # the step of ``SharpnessAware`` has a radius for each group, and wants a unit vector
            scale = rho * scale
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
        self._inverse = {}
        if not gradients:
            return
        g = list(float32_if_half(gradients).values())
        inverse = torch._foreach_mul(g, g)
        if self.form == "authors":
            torch._foreach_add_(inverse, self.eta)
        else:
            torch._foreach_mul_(inverse, self.eta)
            torch._foreach_add_(inverse, 1.0)
        torch._foreach_reciprocal_(inverse)
        self._inverse = dict(zip(gradients, inverse, strict=True))

    def apply(self, v: Named) -> Named:
        """M v."""
        known = {name: x for name, x in v.items() if name in self._inverse}
        most = 1 / self.eta if self.form == "authors" else 1.0  # M where g is zero
        absent = {name: most * x for name, x in v.items() if name not in known}
        if not known:
            return absent
        seen = torch._foreach_mul([self._inverse[name] for name in known], list(known.values()))
        return {**dict(zip(known, seen, strict=True)), **absent}


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

    @torch.no_grad()
    def apply(self, v: Named) -> Named:
        """T^2 v at the present parameters."""
        parameters = dict(self.model.named_parameters())  # looked up anew: a model may be given others
        weights = float32_if_half({name: parameters[name] for name in v if not name.endswith("bias")})
        if not weights:
            return v
        scales = torch._foreach_abs(list(weights.values()))
        torch._foreach_add_(scales, self.eta)
        torch._foreach_mul_(scales, scales)
        torch._foreach_mul_(scales, [v[name] for name in weights])
        return {**v, **dict(zip(weights, scales, strict=True))}


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
        gradients = float32_if_half(gradients)
        follow(self._mean, gradients)
        follow(self._variance, gradients)
        for name, g in gradients.items():
            if name not in self._mean:
                self._mean[name], self._variance[name] = g.clone(), torch.zeros_like(g)
        if not gradients:
            return
        present, mean = list(gradients.values()), [self._mean[name] for name in gradients]
        torch._foreach_lerp_(mean, present, 1 - self.decay)
        squares = torch._foreach_sub(present, mean)
        torch._foreach_mul_(squares, squares)
        torch._foreach_lerp_([self._variance[name] for name in gradients], squares, 1 - self.decay)

    def apply(self, v: Named) -> Named:
        """M v."""
        known = {name: x for name, x in v.items() if name in self._variance}
        absent = {name: x / self.delta for name, x in v.items() if name not in known}
        if not known:
            return absent
        d = torch._foreach_add([self._variance[name] for name in known], self.delta)
        torch._foreach_reciprocal_(d)
        torch._foreach_mul_(d, list(known.values()))
        return {**dict(zip(known, d, strict=True)), **absent}

    def state_dict(self) -> dict[str, Any]:
        """Both averages."""
        return {**super().state_dict(), "mean": dict(self._mean), "variance": dict(self._variance)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        super().load_state_dict(state)
        self._mean = {name: t.clone() for name, t in state["mean"].items()}
        self._variance = {name: t.clone() for name, t in state["variance"].items()}
