"""Whether the likelihood of a natural gradient can be the loss's.

A likelihood is named and never guessed from the loss (likelihoods.py), so the two may contradict each other: a softmax
beside a squared error, or padding that the loss leaves out and the likelihood counts. U then learns from the curvature
of another problem, and nothing else would show it. What shows it is u, the gradient of the loss at the outputs:

    an output that the loss leaves out has u = 0
    a loss of softmax(z) does not change when a constant is added to z, so u sums to 0 over the classes
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llqr_sam.methods.curvature.likelihoods import NAMED, Bernoulli, Categorical, Gaussian, Likelihood, OutputFisher
from llqr_sam.methods.curvature.point import LossFunction, unchanged_loss

LOSSES: dict[str, tuple[Callable[..., Any], ...]] = {
    "categorical": (nn.CrossEntropyLoss, nn.NLLLoss, functional.cross_entropy, functional.nll_loss),
    "gaussian": (
        nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss,
        functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss,
    ),
    "bernoulli": (
        nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss,
        functional.binary_cross_entropy_with_logits, functional.multilabel_soft_margin_loss,
    ),
}  # fmt: skip
"""PyTorch's own losses, and the likelihood that each belongs to."""

DRIFT = 0.1
"""Share of |u| that u's sum over the classes may have: a small penalty on the logits leaves less."""


class Compared:
    """A likelihood that is compared with the loss at each minibatch it meets inside ``against``."""

    def __init__(self, likelihood: Likelihood) -> None:
        self._likelihood = likelihood
        self._loss_fn: LossFunction | None = None
        self._complaint: str | None = None
        self._warned = False

    @contextlib.contextmanager
    def against(self, loss_fn: LossFunction) -> Iterator[None]:
        """Compares with that loss while the context is open."""
        self._loss_fn = loss_fn
        try:
            yield
        finally:
            self._loss_fn = None

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """The likelihood's own (``Likelihood.fisher``)."""
        fisher = self._likelihood.fisher(outputs, targets)
        if self._loss_fn is not None and self._complaint is None:
            # A loss may need more than its arguments, such as what forward left on a module; it is then not compared.
            with contextlib.suppress(Exception):
                self._complaint = unfit(self._likelihood, self._loss_fn, outputs, targets)
        return fisher

    def warn_once(self, stacklevel: int) -> None:
        """Warns of the first contradiction, once; ``stacklevel`` as in ``warnings.warn``."""
        if self._complaint is not None and not self._warned:
            self._warned = True
            warnings.warn(self._complaint, stacklevel=stacklevel + 1)


def unfit(likelihood: Likelihood, loss_fn: LossFunction, outputs: Tensor, targets: Any) -> str | None:
    """Why a likelihood cannot be the loss's: a sentence that says what to write instead, or ``None``.

    A likelihood that is not of likelihoods.py is not judged.
    """
    if not isinstance(likelihood, (Categorical, Bernoulli, Gaussian)):
        return None
    given = next(name for name, kind in NAMED.items() if isinstance(likelihood, type(kind)))
    loss = _unwrapped(loss_fn)
    name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "the loss")
    if isinstance(loss, nn.BCELoss) or loss is functional.binary_cross_entropy:
        return (
            f"{name} takes probabilities, and likelihood={given} does not; let the model return logits, train "
            'it with nn.BCEWithLogitsLoss and build LLQR with likelihood="bernoulli".'
        )
    kinds = type(loss).__mro__ if isinstance(loss, nn.Module) else (loss,)
    meant = next((likelihood for likelihood, losses in LOSSES.items() if any(kind in losses for kind in kinds)), None)
    if meant is not None and meant != given:
        return (
            f"{name} belongs to likelihood={meant}, and U learns from the curvature of likelihood={given}; "
            f'build LLQR with likelihood="{meant}".'
        )
    _, u = at_outputs(loss_fn, outputs, targets)
    if not bool(u.any()) or not bool(u.isfinite().all()):  # nothing to tell by
        return None
    complaint = None
    if isinstance(likelihood, Categorical):
        complaint = _other_axis(likelihood, name if meant else None, outputs, u)
    return complaint or _other_distributions(likelihood, loss_fn, outputs, targets, u)


def _other_axis(likelihood: Categorical, torchs: str | None, outputs: Tensor, u: Tensor) -> str | None:
    """The complaint where the loss has the classes on another axis, or has none; ``torchs`` names a loss of torch."""
    axis = likelihood.axis % outputs.ndim
    if torchs:
        if axis == min(1, outputs.ndim - 1):
            return None
        return (
            f"{torchs} has the classes of outputs {list(outputs.shape)} on axis 1, and the likelihood on axis "
            f"{likelihood.axis}; build LLQR with likelihood=Categorical(axis=1)."
        )

    def drift(axis: int) -> float:
        return float(u.sum(axis).abs().sum() / u.abs().sum())

    normalised = bool((outputs.logsumexp(axis).abs() < 1e-3).all())  # log-probabilities, whose loss may be -z alone
    if normalised or drift(axis) <= DRIFT:
        return None
    others = [other for other in range(1, outputs.ndim) if other != axis and drift(other) < DRIFT / 100]
    remedy = f"Categorical(axis={others[0]})" if others else '"gaussian" for a regression, "bernoulli" for yes or no'
    return (
        f"the loss is no function of a softmax over axis {likelihood.axis} of outputs {list(outputs.shape)}, as "
        f"likelihood=categorical says; build LLQR with likelihood={remedy}."
    )


def _other_distributions(
    likelihood: Categorical | Bernoulli | Gaussian, loss_fn: LossFunction, outputs: Tensor, targets: Any, u: Tensor
) -> str | None:
    """The complaint where the loss reads other outputs than the likelihood counts, if these have any curvature."""
    counted, read = likelihood.counted(outputs, targets), u != 0
    if isinstance(likelihood, Categorical):
        read = read.any(likelihood.axis)
        spread = 1 - torch.softmax(outputs, likelihood.axis).square().sum(likelihood.axis)
    else:
        if not bool(read.all()):  # an output that meets its target has u = 0 too, but not one unit further
            read |= at_outputs(loss_fn, outputs + 1, targets)[1] != 0
        spread = likelihood.diagonal(outputs)
    left_out = int((counted & ~read & (spread > torch.finfo(outputs.dtype).eps)).sum())
    read_alone = int((read & ~counted).sum())
    if not left_out and not read_alone:
        return None
    return (
        f"the likelihood counts {int(counted.sum())} of {counted.numel()} distributions, and the loss "
        f"{f'leaves {left_out} of these out' if left_out else f'reads {read_alone} more'}, as it does with padding; "
        f"build LLQR with likelihood={_remedy(likelihood, loss_fn)}."
    )


def _remedy(likelihood: Likelihood, loss_fn: LossFunction) -> str:
    """How to say what counts: by the index that the loss ignores, or else by a mask."""
    arguments = "mask=..."
    if isinstance(likelihood, Categorical):
        ignored = _ignore_index(loss_fn)
        if ignored is not None and ignored != likelihood.ignore_index and likelihood.mask is None:
            arguments = f"ignore_index={ignored}"
        arguments += f", axis={likelihood.axis}" if likelihood.axis != -1 else ""
    what = ", where mask(outputs, targets) is True for those that count" if "mask" in arguments else ""
    return f"{type(likelihood).__name__}({arguments}){what}"


def at_outputs(loss_fn: LossFunction, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """The loss, and u, its gradient at the outputs and shaped like them; the outputs are not changed."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        loss = unchanged_loss(loss_fn, z.clone(), targets).sum()
        (u,) = torch.autograd.grad(loss, z, materialize_grads=True)
    return loss.detach(), u


def _unwrapped(loss_fn: LossFunction) -> LossFunction:
    """The loss inside ``functools.partial``."""
    return _unwrapped(loss_fn.func) if isinstance(loss_fn, functools.partial) else loss_fn


def _ignore_index(loss_fn: LossFunction) -> int | None:
    """The target that a loss of torch ignores, where it says so."""
    if isinstance(loss_fn, functools.partial):
        return loss_fn.keywords.get("ignore_index", _ignore_index(loss_fn.func))
    ignored = getattr(loss_fn, "ignore_index", None)
    return ignored if isinstance(ignored, int) else None
