"""Blocks of embeddings: the pull-back, and memory linear in the vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llqr_sam.methods.blocks.kronecker import VocabularyEKFAC, VocabularyKFAC
from llqr_sam.methods.blocks.layout import Kernel, layout
from llqr_sam.methods.llqr import LLQR

BLOCKS = {"kfac": VocabularyKFAC, "ekfac": VocabularyEKFAC}


class TiedWords(nn.Module):
    """Words to words, through one weight."""

    def __init__(self, words: int, width: int, *, output_first: bool = False) -> None:
        super().__init__()
        if output_first:
            self.output = nn.Linear(width, words, bias=False)
        self.embedding = nn.Embedding(words, width)
        self.hidden = nn.Linear(width, width)
        if not output_first:
            self.output = nn.Linear(width, words, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.tanh(self.hidden(self.embedding(words))))
        return logits


def block_of(structure: str) -> VocabularyKFAC | VocabularyEKFAC:
    kernels = [Kernel(name, torch.Size((7, 3)), n=7, m=3, vocabulary=True) for name in ("source", "target")]
    return BLOCKS[structure](kernels, dtype=torch.float64, device=torch.device("cpu"))


@pytest.mark.parametrize("structure", BLOCKS)
def test_pullback_is_the_derivative(structure: str) -> None:
    """Of <C, -U(factors) W} in each factor, by autograd."""
    block = block_of(structure)
    w, c = torch.randn(2, 2, 7, 3, dtype=torch.float64)
    factors = {name: (f + 0.3 * torch.randn_like(f)).requires_grad_() for name, f in block.factors.items()}
    value = -(c * block.product(factors, w)).sum()
    expected = torch.autograd.grad(value, list(factors.values()))
    with torch.no_grad():
        found = block.pullback(factors, w, c)
    for (name, derivative), reference in zip(((n, found[n]) for n in factors), expected, strict=True):
        torch.testing.assert_close(derivative, reference, msg=name)


@pytest.mark.parametrize("structure", BLOCKS)
def test_begins_at_the_identity(structure: str) -> None:
    block, w = block_of(structure), torch.randn(2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(block.apply_stacked(w), w)


@pytest.mark.parametrize("output_first", [False, True])
def test_a_tied_weight_is_one_kernel_of_a_vocabulary(output_first: bool) -> None:
    kernels, _ = layout(TiedWords(11, 4, output_first=output_first))
    assert sorted((k.n, k.m, k.vocabulary) for k in kernels) == [(4, 4, False), (11, 4, True)]


@pytest.mark.parametrize(("structure", "per_word"), [("diagonal", 8), ("kfac", 1), ("ekfac", 8), ("diag_kfac", 1)])
def test_memory_grows_with_the_vocabulary_not_with_its_square(structure: str, per_word: int) -> None:
    sizes = [LLQR(TiedWords(words, 8), structure=structure).storage for words in (1000, 2000)]  # type: ignore[arg-type]
    assert sizes[1] - sizes[0] == 1000 * per_word


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
def test_a_refresh_lowers_the_objective(structure: str) -> None:
    model = TiedWords(30, 5)
    metric = LLQR(model, structure=structure, ema=0.0, inner_lr=1e-2, inner_steps=20)  # type: ignore[arg-type]
    words = torch.randint(30, (4, 6))
    report = metric.refresh(
        words, words.roll(1, 1), lambda z, y: nn.functional.cross_entropy(z.flatten(0, 1), y.flatten())
    )
    assert report.accepted
    assert report.objective_after < report.objective_before
