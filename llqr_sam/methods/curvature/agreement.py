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

from llqr_sam.methods.curvature.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, OutputFisher
from llqr_sam.methods.curvature.point import LossFunction, unchanged_loss

KINDS: dict[str, type[Likelihood]] = {"categorical": Categorical, "gaussian": Gaussian, "bernoulli": Bernoulli}
LOSSES: dict[str, tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Tensor], ...]]] = {
    "categorical": (
        (nn.CrossEntropyLoss, nn.NLLLoss),
        (functional.cross_entropy, functional.nll_loss),
    ),
    "gaussian": (
        (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
        (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
    ),
    "bernoulli": (
        (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss),
        (functional.binary_cross_entropy_with_logits, functional.multilabel_soft_margin_loss),
    ),
}
"""Torch's own losses, and the likelihood that each belongs to."""

ADRIFT = 0.1
"""Share of |u| that may be left of u's sum over the classes: a small penalty on the logits leaves less."""


class Compared:
    """A likelihood, compared with a loss at each minibatch that is looked at inside ``against``.

    Args:
        likelihood: The likelihood.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self._likelihood = likelihood
        self._loss_fn: LossFunction | None = None
        self._complaint: str | None = None
        self._warned = False

    @contextlib.contextmanager
    def against(self, loss_fn: LossFunction) -> Iterator[None]:
        """What the likelihood is compared with while the context is open."""
        self._loss_fn = loss_fn
        try:
            yield
        finally:
            self._loss_fn = None

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """See ``Likelihood``."""
        fisher = self._likelihood.fisher(outputs, targets)
        if self._loss_fn is not None:
            # A loss may need more than its arguments, such as what forward left on a module; it is then not compared.
            with contextlib.suppress(Exception):
                complaint = unfit(self._likelihood, self._loss_fn, outputs, targets)
                self._complaint = self._complaint or complaint
        return fisher

    def warn_once(self, stacklevel: int) -> None:
        """Tells the caller that many frames above what did not agree, the first time that something does not."""
        if self._complaint is not None and not self._warned:
            self._warned = True
            warnings.warn(self._complaint, stacklevel=stacklevel + 1)


def unfit(likelihood: Likelihood, loss_fn: LossFunction, outputs: Tensor, targets: Any) -> str | None:
    """Why a likelihood cannot be the loss's.

    Args:
        likelihood: The likelihood; one that is not of likelihoods.py is the caller's own business.
        loss_fn: ``loss_fn(outputs, targets)``, 0-d.
        outputs: Outputs of the network.
        targets: Whatever both take.

    Returns:
        One sentence that names what to write instead, or ``None`` where nothing speaks against it.
    """
    given = next((name for name, kind in KINDS.items() if isinstance(likelihood, kind)), None)
    if given is None:
        return None
    loss = _unwrapped(loss_fn)
    if isinstance(loss, nn.BCELoss) or loss is functional.binary_cross_entropy:
        return (
            f"{_name(loss)} takes probabilities, and likelihood={given} does not; let the model return logits, train "
            'it with nn.BCEWithLogitsLoss and build LLQR with likelihood="bernoulli".'
        )
    meant = _meant(loss)
    if meant is not None and meant != given:
        return (
            f"{_name(loss)} belongs to likelihood={meant}, and U learns from the curvature of likelihood={given}; "
            f'build LLQR with likelihood="{meant}".'
        )
    _, u = at_outputs(loss_fn, outputs, targets)
    if not bool(u.any()) or not bool(u.isfinite().all()):  # nothing to tell by
        return None
    if isinstance(likelihood, Categorical) and (complaint := _other_axis(likelihood, loss, outputs, u)):
        return complaint
    assert isinstance(likelihood, (Categorical, Bernoulli, Gaussian))
    return _other_distributions(likelihood, loss_fn, outputs, targets, u)


def _other_axis(likelihood: Categorical, loss: LossFunction, outputs: Tensor, u: Tensor) -> str | None:
    """Where the classes lie on another axis for the loss than for the likelihood, or it knows no classes."""
    axis = likelihood.axis % outputs.ndim
    if _meant(loss) == "categorical":
        if axis == min(1, outputs.ndim - 1):
            return None
        return (
            f"{_name(loss)} has the classes of outputs {list(outputs.shape)} on axis 1, and the likelihood on axis "
            f"{likelihood.axis}; build LLQR with likelihood=Categorical(axis=1)."
        )
    normalised = bool((outputs.logsumexp(axis).abs() < 1e-3).all())  # log-probabilities, whose loss may be -z alone
    if normalised or _adrift(u, axis) <= ADRIFT:
        return None
    others = [other for other in range(1, outputs.ndim) if other != axis and _adrift(u, other) < ADRIFT / 100]
    remedy = f"Categorical(axis={others[0]})" if others else '"gaussian" for a regression, "bernoulli" for yes or no'
    return (
        f"the loss is no function of a softmax over axis {likelihood.axis} of outputs {list(outputs.shape)}, as "
        f"likelihood=categorical says; build LLQR with likelihood={remedy}."
    )


def _other_distributions(
    likelihood: Categorical | Bernoulli | Gaussian, loss_fn: LossFunction, outputs: Tensor, targets: Any, u: Tensor
) -> str | None:
    """Where the loss reads other outputs than the likelihood counts, so far as these have any curvature."""
    counted, read = likelihood.counted(outputs, targets), u != 0
    if isinstance(likelihood, Categorical):
        read = read.any(likelihood.axis)
        spread = 1 - torch.softmax(outputs, likelihood.axis).square().sum(likelihood.axis)
    else:
        if not bool(read.all()):  # an output that meets its target has u = 0 too, but not one unit further
            read |= at_outputs(loss_fn, outputs + 1, targets)[1] != 0
        p = torch.sigmoid(outputs)
        spread = p * (1 - p) if isinstance(likelihood, Bernoulli) else torch.ones_like(p)
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
    """How to name what counts: by the index that the loss says it ignores, or else by a mask."""
    said = "mask=..."
    if isinstance(likelihood, Categorical):
        ignored = _ignore_index(loss_fn)
        told = ignored is not None and ignored != likelihood.ignore_index and likelihood.mask is None
        said = f"ignore_index={ignored}" if told else said
        said += f", axis={likelihood.axis}" if likelihood.axis != -1 else ""
    what = ", where mask(outputs, targets) is True for those that count" if "mask" in said else ""
    return f"{type(likelihood).__name__}({said}){what}"


def at_outputs(loss_fn: LossFunction, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """The loss and u, its gradient at the outputs and shaped like them; the outputs are not changed."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        loss = unchanged_loss(loss_fn, z.clone(), targets).sum()
        (u,) = torch.autograd.grad(loss, z, materialize_grads=True)
    return loss.detach(), u


def _adrift(u: Tensor, axis: int) -> float:
    """|sum of u over the axis|, relative to |u|."""
    return float(u.sum(axis).abs().sum() / u.abs().sum())


def _meant(loss: LossFunction) -> str | None:
    """The likelihood that a loss of torch's own belongs to."""
    for name, (classes, functions) in LOSSES.items():
        if isinstance(loss, classes) or loss in functions:
            return name
    return None


def _unwrapped(loss_fn: LossFunction) -> LossFunction:
    """The loss inside ``functools.partial``."""
    return _unwrapped(loss_fn.func) if isinstance(loss_fn, functools.partial) else loss_fn


def _ignore_index(loss_fn: LossFunction) -> int | None:
    """The target that a loss of torch's own ignores, where it says so."""
    if isinstance(loss_fn, functools.partial):
        return loss_fn.keywords.get("ignore_index", _ignore_index(loss_fn.func))
    ignored = getattr(loss_fn, "ignore_index", None)
    return ignored if isinstance(ignored, int) else None


def _name(loss: LossFunction) -> str:
    return type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "the loss")
