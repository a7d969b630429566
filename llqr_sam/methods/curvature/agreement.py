"""Whether the likelihood of a natural gradient can be the loss's.

A likelihood is never guessed from the loss, so the two may contradict each other. What shows it is u, the gradient of
the loss at the outputs: it is 0 where the loss leaves an output out, and sums to 0 over the classes of a softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llqr_sam.methods.curvature.likelihoods import NAMED, Bernoulli, Categorical, Gaussian, Likelihood, counted
from llqr_sam.methods.curvature.point import LossFunction, unchanged_loss, vjp

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


def unfit(likelihood: Likelihood, loss_fn: LossFunction, outputs: Tensor, targets: Any) -> str | None:
    """Why a likelihood cannot be the loss's: a sentence that says what to write instead, or ``None``."""
    if not isinstance(likelihood, (Categorical, Bernoulli, Gaussian)):  # the user's own is not judged
        return None
    given = next(name for name, kind in NAMED.items() if isinstance(likelihood, type(kind)))
    loss = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    kinds = type(loss).__mro__ if isinstance(loss, nn.Module) else (loss,)
    name = getattr(kinds[0], "__name__", "the loss")
    if nn.BCELoss in kinds or functional.binary_cross_entropy in kinds:
        return (
            f"{name} takes probabilities, and likelihood={given} does not; let the model return logits, train "
            'it with nn.BCEWithLogitsLoss and build LLQR with likelihood="bernoulli".'
        )
    meant = next((likelihood for likelihood, losses in LOSSES.items() if any(kind in losses for kind in kinds)), None)
    if meant is not None and meant != given:
        return (
            f"{name} belongs to likelihood={meant}, and U learns from the curvature of likelihood={given}; "
            f'build LLQR with likelihood="{meant}".'
        )

    def gradient_at(z: Tensor) -> Tensor:
        return at_outputs(lambda z: unchanged_loss(loss_fn, z, targets), z)[1]

    u = gradient_at(outputs)
    if not bool(u.any()) or not bool(u.isfinite().all()):  # nothing to tell by
        return None
    read = u != 0
    if isinstance(likelihood, Categorical):
        complaint = _other_axis(likelihood, name if meant else None, outputs, u)
        if complaint is not None:
            return complaint
        read = read.any(likelihood.axis)
        spread = 1 - torch.softmax(outputs, likelihood.axis).square().sum(likelihood.axis)
    else:
        if not bool(read.all()):  # an output that meets its target has u = 0 too, but not one unit further
            read |= gradient_at(outputs + 1) != 0
        spread = likelihood.fisher(outputs, targets)[0](torch.ones_like(outputs))
    counts = counted(likelihood, outputs, targets)
    left_out = int((counts & ~read & (spread > torch.finfo(outputs.dtype).eps)).sum())
    read_alone = int((read & ~counts).sum())
    if not left_out and not read_alone:
        return None
    ignored = loss_fn.keywords.get("ignore_index") if isinstance(loss_fn, partial) else None
    return (
        f"the likelihood counts {int(counts.sum())} of {counts.numel()} distributions, and the loss "
        f"{f'leaves {left_out} of these out' if left_out else f'reads {read_alone} more'}, as it does with padding; "
        f"build LLQR with likelihood={_remedy(likelihood, getattr(loss, 'ignore_index', ignored))}."
    )


def _other_axis(likelihood: Categorical, torchs: str | None, outputs: Tensor, u: Tensor) -> str | None:
    """The complaint where the loss has the classes on another axis, or has none; ``torchs`` names a loss of torch."""
    axis = likelihood.axis % outputs.ndim

    def drift(axis: int) -> float:
        return float(u.sum(axis).abs().sum() / u.abs().sum())

    if torchs:
        others = [min(1, outputs.ndim - 1)]
        if axis in others:
            return None
    else:
        normalised = bool((outputs.logsumexp(axis).abs() < 1e-3).all())  # log-probabilities: the loss may be -z alone
        if normalised or drift(axis) <= DRIFT:
            return None
        others = [other for other in range(1, outputs.ndim) if other != axis and drift(other) < DRIFT / 100]
    remedy = f"Categorical(axis={others[0]})" if others else '"gaussian" for a regression, "bernoulli" for yes or no'
    return (
        f"{torchs or 'the loss'} is no function of a softmax over axis {likelihood.axis} of outputs "
        f"{list(outputs.shape)}, as likelihood=categorical says; build LLQR with likelihood={remedy}."
    )


def _remedy(likelihood: Categorical | Bernoulli | Gaussian, ignored: Any) -> str:
    """How to say what counts: by the index that the loss ignores, or else by a mask."""
    arguments = "mask=..."
    if isinstance(likelihood, Categorical):
        if ignored not in (None, likelihood.ignore_index) and likelihood.mask is None:
            arguments = f"ignore_index={ignored}"
        arguments += f", axis={likelihood.axis}" if likelihood.axis != -1 else ""
    what = ", where mask(outputs, targets) is True for those that count" if "mask" in arguments else ""
    return f"{type(likelihood).__name__}({arguments}){what}"


def at_outputs(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and u, its gradient at the outputs and shaped like them; the outputs are not changed."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        found = loss(z.clone()).sum()
    return found.detach(), vjp([found], [z], [torch.ones_like(found)])[0]
