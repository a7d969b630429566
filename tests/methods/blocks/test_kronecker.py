"""The inner loops of K-FAC and E-KFAC, which avoid m x m products, against the loops that do not; embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llqr_sam.methods.blocks.block import HeavyBall
from llqr_sam.methods.blocks.kronecker import EKFAC, KFAC, VocabularyEKFAC, VocabularyKFAC
from llqr_sam.methods.blocks.layout import Kernel, layout
from llqr_sam.methods.llqr import LLQR

F64 = {"dtype": torch.float64, "device": torch.device("cpu")}
SHAPES = [(3, 7), (7, 3), (4, 4), (1, 5), (5, 1)]  # wide, tall, square, and vectors


def _product(kind, f, w):
    if kind is KFAC:
        return f["B"] @ w @ f["A"].mT
    return f["Q_B"] @ (f["D"] * (f["Q_B"].mT @ w @ f["Q_A"])) @ f["Q_A"].mT


def _block(kind, n, m, count=3):
    block = kind([Kernel(f"w{i}", torch.Size([n, m]), n=n, m=m) for i in range(count)], **F64)
    for factor in block.factors.values():
        factor.add_(0.3 * torch.randn_like(factor))
    return block


def _plain_loop(kind, factors, w, costates, descent):
    """Algorithm 2's inner loop with autograd's gradient and everything formed."""
    factors = {name: f.clone() for name, f in factors.items()}
    buffers = {name: torch.zeros_like(f) for name, f in factors.items()}
    for c in costates:
        leaves = {name: f.clone().requires_grad_() for name, f in factors.items()}
        gradients = torch.autograd.grad((c * -_product(kind, leaves, w)).sum(), list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1)
            clipped = gradient * descent.clip_norm / norm.clamp_min(descent.clip_norm)
            buffers[name] = clipped + descent.momentum * buffers[name]
            factors[name] = factors[name] - descent.lr * buffers[name]
    return factors


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("kind", [KFAC, EKFAC])
@pytest.mark.parametrize("clip_norm", [1e9, 0.5])
def test_learner_equals_the_plain_loop(kind, n, m, clip_norm):
    """Ten steps, clipped and not, on a stack of three kernels; also U g on the way."""
    block = _block(kind, n, m)
    descent = HeavyBall(lr=0.01, momentum=0.9, clip_norm=clip_norm)
    w = torch.randn(3, n, m, dtype=torch.float64)
    costates = torch.randn(10, 3, n, m, dtype=torch.float64)
    start = {name: f.clone() for name, f in block.factors.items()}
    learner = block.learner(block.scatter(w), descent)
    torch.testing.assert_close(block.gather(learner.apply()), _product(kind, start, w), rtol=1e-10, atol=1e-11)
    for c in costates:
        learner.descend(block.scatter(c))
    expected = _plain_loop(kind, start, w, costates, descent)
    for name, factor in learner.factors().items():
        torch.testing.assert_close(factor, expected[name], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(block.gather(learner.apply()), _product(kind, expected, w), rtol=1e-10, atol=1e-11)
    assert all(torch.equal(f, start[name]) for name, f in block.factors.items()), "the stored U moved"


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_apply_is_the_definition(kind, n, m):
    block = _block(kind, n, m)
    w = torch.randn(3, n, m, dtype=torch.float64)
    torch.testing.assert_close(block.apply_stacked(w), _product(kind, block.factors, w), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_identity_is_exact_in_float32(kind):
    block = kind([Kernel("w", torch.Size([6, 9]), n=6, m=9)], dtype=torch.float32, device=torch.device("cpu"))
    w = torch.randn(6, 9)
    assert torch.equal(block.apply({"w": w})["w"], w)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_products_may_be_rounded_and_follow_the_factors(kind):
    """bfloat16 products stay within its precision of the exact ones, also after the factors have changed."""
    kernel = Kernel("w", torch.Size([6, 9]), n=6, m=9)
    options = {"dtype": torch.float32, "device": torch.device("cpu")}
    exact, rounded = kind([kernel], **options), kind([kernel], **options, apply_dtype=torch.bfloat16)
    w = torch.randn(6, 9)
    for _ in range(2):
        for name, factor in exact.factors.items():
            factor.add_(0.3 * torch.randn_like(factor))
            rounded.factors[name].copy_(factor)
        expected, actual = exact.apply({"w": w})["w"], rounded.apply({"w": w})["w"]
        assert actual.dtype == torch.float32
        assert 0 < (actual - expected).norm() < 0.02 * expected.norm()


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
