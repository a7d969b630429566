"""Inverse metrics M: in which geometry SAM's perturbation is measured.

    eps = rho M v / norm(v)      norm: sqrt(v' M v) (paper, eq. 1) or |M v|_2 (authors' code)

One global norm over all parameters. LLQR's U is a metric too (llqr.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.methods import named
from llqr_sam.methods.distributed import unwrapped
from llqr_sam.methods.named import Named, dot, float32_if_half, follow, squared_norm
from llqr_sam.methods.settings import AdaptiveSettings, FisherForm, FisherSettings, NoiseSettings, Norm, Perturbation
from llqr_sam.methods.shards import WHOLE, Shards, local

TINY = 1e-12  # added to the squared norm, so that a zero gradient gives a zero perturbation (authors' code)


class Metric:
    """The identity M = I, which gives SAM's Euclidean ball, and the base of all metrics.

    A metric of your own overrides ``apply``; ``observe`` if it learns from the gradients of the steps; and the two
    ``state_dict`` methods if it keeps a state.

    Attributes:
        model: Network that the metric is tied to, or ``None``.
        sharded: Whether the metric is spread over ranks, which must then all apply it at the same time.
        norm: Norm of the perturbation where the caller names none: "metric" or "euclidean".

    Example:
        >>> import torch
        >>> Metric().probe({"weight": torch.tensor([3.0, 4.0])}, rho=0.5)
        {'weight': tensor([0.3000, 0.4000])}
    """

    model: nn.Module | None = None
    sharded: bool = False
    norm: Norm = "metric"
    _fallbacks: Tensor | int = 0

    @property
    def fallbacks(self) -> int:
        """Returns how many perturbations used the Euclidean norm because v' M v was not a positive number."""
        return int(self._fallbacks)

    def observe(self, gradients: Named) -> None:
        """Sees the minibatch gradient at theta; called once for each step, before the metric is applied.

        Args:
            gradients: g, name -> tensor shaped like the parameter.
        """

    def apply(self, v: Named) -> Named:
        """Returns M v.

        Args:
            v: Name -> tensor shaped like the parameter.

        Returns:
            M v, of the same names and shapes: the tensors of v themselves, or new ones that the caller may overwrite.

        Raises:
            ValueError: the metric is of another model than v, or the model was moved since it was built.
        """
        return v

    def apply_(self, v: Named) -> None:
        """Overwrites v with M v.

        Args:
            v: Name -> tensor shaped like the parameter; changed in place.
        """
        transported = self.apply(v)
        if v and transported is not v:
            torch._foreach_copy_(list(v.values()), [transported[name] for name in v])

    def probe(self, v: Named, rho: float, norm: Norm | None = None) -> Named:
        """Returns the perturbation eps = rho M v / norm(v) (paper, eq. 1), with one norm over all parameters.

        Where v' M v is not a positive number (K-FAC blocks can be indefinite) the Euclidean norm of M v is used
        instead and ``fallbacks`` goes up by one. Nothing here waits for the device.

        Args:
            v: Ascent direction, name -> tensor shaped like the parameter.
            rho: Radius in the chosen norm, >= 0.
            norm: "metric", sqrt(v' M v), or "euclidean", |M v|; ``None`` is the metric's own.

        Returns:
            eps, of the same names and shapes; float32 where v is in half precision. Zero where v is zero.

        Raises:
            ValueError: rho is negative or not finite, or the norm is unknown.
        """
        Perturbation.check("rho", rho)
        mv, factor = self.ascent(v, norm)
        return dict(zip(mv, torch._foreach_mul(list(mv.values()), rho * factor), strict=True))

    def ascent(self, v: Named, norm: Norm | None = None, shards: Shards = WHOLE) -> tuple[Named, float]:
        """Returns the perturbation of radius 1 as tensors, and a factor that they are still to be multiplied by.

        Args:
            v: Ascent direction, name -> tensor shaped like the parameter, or like the part of it that this rank holds.
            norm: As for ``probe``.
            shards: Which tensors are parts; the norm is then summed over the ranks that hold the others.

        Returns:
            M v and 1 / norm(v) on a CPU. Elsewhere the factor is 1 and multiplied in: nobody waits for its number.

        Raises:
            ValueError: the norm is unknown.
        """
        norm = self.norm if norm is None else norm
        Perturbation.check("norm", norm)
        applied = self.apply(v)
        mv = float32_if_half(applied)
        squared = squared_norm(mv, shards)
        if norm == "metric" and applied is not v:  # for the identity both norms are the same
            quadratic = torch.nan_to_num(dot(v, mv, shards), nan=0.0, posinf=0.0, neginf=0.0)
            squared = torch.where(quadratic > 0, quadratic, squared)
            so_far = torch.as_tensor(self._fallbacks, device=squared.device)  # the model may have moved
            self._fallbacks = so_far + (squared > quadratic)
        scale = torch.rsqrt(squared + TINY)
        if named.is_cheap_to_read(scale):
            return mv, float(scale)
        if any(x is v[name] for name, x in mv.items()):
            return dict(zip(mv, torch._foreach_mul(list(mv.values()), scale), strict=True)), 1.0
        torch._foreach_mul_(list(mv.values()), scale)
        return mv, 1.0

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs: the number of fallbacks, and the tensors that a metric keeps."""
        return {"fallbacks": self.fallbacks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: What ``state_dict`` returned.
        """
        self._fallbacks = int(state["fallbacks"])


class FisherDiagonal(Metric):
    """FisherSAM (Kim et al., arXiv 2206.04920): M from the diagonal g^2 of the empirical Fisher matrix.

    g is the minibatch mean gradient; a parameter that has none counts as one whose g is zero.

    Args:
        eta: Regularisation of the inverse, > 0.
        form: "authors", M = 1 / (g^2 + eta), the code of the LLQR+SAM authors; or "kim", M = 1 / (1 + eta g^2).

    Raises:
        ValueError: eta is out of its range, or form is unknown.

    Example:
        >>> import torch
        >>> fisher = FisherDiagonal(eta=1.0)
        >>> fisher.observe({"weight": torch.tensor([0.0, 1.0])})
        >>> fisher.apply({"weight": torch.tensor([2.0, 2.0])})
        {'weight': tensor([2., 1.])}
    """

    def __init__(self, eta: float = 0.1, form: FisherForm = "authors") -> None:
        FisherSettings(eta, form)  # checks them
        self.eta, self.form = eta, form
        self._inverse: Named = {}

    def observe(self, gradients: Named) -> None:
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
        known = {name: x for name, x in v.items() if name in self._inverse}
        most = 1 / self.eta if self.form == "authors" else 1.0  # M where g is zero
        absent = {name: most * x for name, x in v.items() if name not in known}
        if not known:
            return absent
        seen = torch._foreach_mul([self._inverse[name] for name in known], list(known.values()))
        return {**dict(zip(known, seen, strict=True)), **absent}


class Adaptive(Metric):
    """ASAM (Kwon et al., arXiv 2102.11600): M = T^2, T = |theta| + eta for weights and 1 for biases.

    With norm "metric" the perturbation is that paper's, eps = rho T^2 g / |T g|.

    Args:
        model: Network whose parameters theta are read at each perturbation.
        eta: Added to every |theta|, >= 0.
        biases: Whether biases have the T of weights (pytorch_optimizer's form) instead of 1 (the paper's code).

    Raises:
        ValueError: eta is out of its range.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> Adaptive(model, eta=0.0).apply({"weight": torch.ones(1, 2)})
        {'weight': tensor([[4., 4.]])}
    """

    model: nn.Module

    def __init__(self, model: nn.Module, eta: float = 0.01, *, biases: bool = False) -> None:
        AdaptiveSettings(eta)  # checks it
        self.model, self.eta, self.biases = unwrapped(model), eta, biases

    @torch.no_grad()
    def apply(self, v: Named) -> Named:
        parameters = dict(self.model.named_parameters())  # looked up anew: a model may be given others
        scaled = v if self.biases else [name for name in v if not name.endswith("bias")]
        weights = float32_if_half({name: local(parameters[name]) for name in scaled})
        if not weights:
            return v
        scales = torch._foreach_abs(list(weights.values()))
        torch._foreach_add_(scales, self.eta)
        torch._foreach_mul_(scales, scales)
        torch._foreach_mul_(scales, [v[name] for name in weights])
        return {**v, **dict(zip(weights, scales, strict=True))}


class GradientNoise(Metric):
    """infoSAM, our reading: eps = rho D v / |D v|, D = 1 / (s + delta), s = EMA of (g - EMA(g))^2, elementwise.

    Only an abstract without a formula is public: D and the norm, "euclidean", are our reading (docs/methods.md, section
    1.4). The length of eps is rho whatever the scale of s, so SAM's radius carries over.

    Args:
        decay: Weight of the old value in both averages, in [0, 1). A parameter's first gradient starts its mean; its
            variance starts at zero.
        delta: Added to the variance, > 0. It must lie below a gradient's usual noise variance per coordinate (1e-7 in
            a ResNet-18), else D is constant and the method is SAM.

    Raises:
        ValueError: decay or delta is out of its range.

    Example:
        >>> import torch
        >>> noise = GradientNoise(decay=0.5, delta=0.5)
        >>> noise.observe({"weight": torch.tensor([0.0, 0.0])})
        >>> noise.observe({"weight": torch.tensor([0.0, 2.0])})
        >>> noise.apply({"weight": torch.tensor([1.0, 1.0])})
        {'weight': tensor([2., 1.])}
    """

    norm: Norm = "euclidean"

    def __init__(self, decay: float = 0.9, delta: float = 1e-8) -> None:
        NoiseSettings(decay, delta)  # checks them
        self.decay, self.delta = decay, delta
        self._mean, self._variance = Named(), Named()

    def observe(self, gradients: Named) -> None:
        gradients = float32_if_half(gradients)
        follow(self._mean, gradients)
        follow(self._variance, gradients, torch.zeros_like)
        if not gradients:
            return
        present, mean = list(gradients.values()), [self._mean[name] for name in gradients]
        torch._foreach_lerp_(mean, present, 1 - self.decay)
        squares = torch._foreach_sub(present, mean)
        torch._foreach_mul_(squares, squares)
        torch._foreach_lerp_([self._variance[name] for name in gradients], squares, 1 - self.decay)

    def apply(self, v: Named) -> Named:
        known = {name: x for name, x in v.items() if name in self._variance}
        absent = {name: x / self.delta for name, x in v.items() if name not in known}
        if not known:
            return absent
        d = torch._foreach_add([self._variance[name] for name in known], self.delta)
        torch._foreach_reciprocal_(d)
        torch._foreach_mul_(d, list(known.values()))
        return {**dict(zip(known, d, strict=True)), **absent}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mean": dict(self._mean), "variance": dict(self._variance)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._mean = {name: t.clone() for name, t in state["mean"].items()}
        self._variance = {name: t.clone() for name, t in state["variance"].items()}
