"""A network per token, minibatches whose padding each says in its own way, and the Fisher matrix by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from llqr_sam import Categorical

N, T, C = 4, 5, 3
LENGTHS = torch.tensor([5, 1, 3, 2])
KEPT = torch.arange(T) < LENGTHS.unsqueeze(1)
NEXT = torch.arange(T) < LENGTHS.unsqueeze(1) - 1  # positions that predict a token which is no padding
PLAIN = Categorical()


@dataclass(frozen=True)
class Padded:
    """One way to say what is padding.

    Attributes:
        targets: Of labels ``[N, T]`` that are -100 at padding, what the loss takes.
        loss_fn: Mean over what counts.
        likelihood: That says the same.
        flat: Whether the network returns ``[N * T, C]``.
        kept: Positions that count, ``[N, T]``.
    """

    targets: Callable[[Tensor], Any]
    loss_fn: Callable[[Tensor, Any], Tensor]
    likelihood: Categorical = PLAIN
    flat: bool = False
    kept: Tensor = KEPT


def _tokens(outputs: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    return cross_entropy(outputs.flatten(0, -2), labels.flatten(), ignore_index=ignore_index)


def _weighted(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
    losses = cross_entropy(outputs.flatten(0, 1), targets["labels"].flatten(), reduction="none")
    return (losses * targets["weights"].flatten()).sum() / targets["weights"].sum()


def _packed(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    labels, lengths = targets
    kept = torch.arange(labels.shape[1]) < lengths.unsqueeze(1)
    return cross_entropy(outputs[kept], labels[kept])


def _next_token(outputs: Tensor, labels: Tensor) -> Tensor:
    return _tokens(outputs[:, :-1], labels[:, 1:])


def _named(labels: Tensor) -> dict[str, Tensor]:
    """Labels and integer weights: two tensors of integers, of which either might be the classes."""
    return {"labels": labels.clamp_min(0), "weights": (labels >= 0).long()}


WAYS = {
    "plain": Padded(lambda labels: labels, _tokens),
    "flat_outputs": Padded(lambda labels: labels, _tokens, flat=True),
    "flat_targets": Padded(lambda labels: labels.flatten(), _tokens),
    "ignore_index": Padded(
        lambda labels: (labels + 1).clamp_min(0).flatten(),
        nn.CrossEntropyLoss(ignore_index=0),
        Categorical(ignore_index=0),
        flat=True,
    ),
    "only_integers_in_a_mapping": Padded(
        lambda labels: {"labels": labels, "weights": torch.ones(len(labels))}, lambda z, t: _tokens(z, t["labels"])
    ),
    "mapping": Padded(_named, _weighted, Categorical(mask=lambda outputs, targets: targets["weights"] > 0)),
    "mapping_flat": Padded(
        _named,
        lambda z, t: _weighted(z.unflatten(0, (-1, T)), t),
        Categorical(mask=lambda z, t: t["weights"] > 0),
        True,
    ),
    "tuple": Padded(
        lambda labels: (labels.clamp_min(0), (labels >= 0).sum(1)),
        _packed,
        Categorical(mask=lambda outputs, targets: torch.arange(T) < targets[1].unsqueeze(1)),
    ),
    "next_token": Padded(
        lambda labels: labels,
        _next_token,
        Categorical(mask=lambda outputs, targets: pad(targets[:, 1:], (0, 1), value=-100) != -100),
        kept=NEXT,
    ),
}


def padded_labels() -> Tensor:
    """Labels ``[N, T]`` in 0..C-2, so that one more is a class too; -100 at padding."""
    return torch.where(KEPT, torch.randint(0, C - 1, (N, T)), -100)


def network(flat: bool = False) -> tuple[nn.Module, Tensor]:
    """A perceptron on each token in float64, and inputs ``[N, T, 4]``."""
    layers = [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)]
    net = nn.Sequential(*layers, *([nn.Flatten(0, 1)] if flat else [])).double()
    return net, torch.randn(N, T, 4, dtype=torch.float64)


def dense_fisher(net: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
    """Sum over the kept tokens of J' (diag p - p p') J, token by token, in the order of ``parameters()``."""
    z = net(x).reshape(-1, C)
    total = torch.zeros(())
    for i in kept.flatten().nonzero().flatten().tolist():
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(z[i, c], list(net.parameters()), retain_graph=True)])
            for c in range(C)
        ]
        jacobian, p = torch.stack(rows), z[i].detach().softmax(-1)
        total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total
