"""fairseq's networks as modules from tokens to logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llqr_sam.engine.records.provenance import weights_sha256
from llqr_sam.models.transformer import TRANSFORMERS, Translator, build_transformer

pytestmark = pytest.mark.nmt


@pytest.fixture
def dictionaries() -> tuple[Any, Any]:
    """16 and 12 words, four of them special."""
    from llqr_sam.fairseq_compat import ensure_fairseq

    ensure_fairseq()
    from fairseq.data import Dictionary

    made = Dictionary(), Dictionary()
    for dictionary, words in zip(made, (12, 8), strict=True):
        for number in range(words):
            dictionary.add_symbol(f"w{number}")
    return made


def parameters_of(width: int, feed_forward: int, layers: int, words: tuple[int, int]) -> int:
    """Counted by hand: linear maps and norms of both sides, and one embedding a language."""
    attention, norm = 4 * (width * width + width), 2 * width
    mixing = 2 * width * feed_forward + width + feed_forward
    encoder, decoder = attention + mixing + 2 * norm, 2 * attention + mixing + 3 * norm
    return layers * (encoder + decoder) + sum(words) * width


@pytest.mark.parametrize(
    ("name", "sizes"), [("transformer_iwslt", (512, 1024, 6)), ("transformer_small", (128, 256, 2))]
)
def test_parameters(name: str, sizes: tuple[int, int, int], dictionaries: tuple[Any, Any]) -> None:
    """Tied embeddings count once, and everything counted is trained."""
    model = build_transformer(name, dictionaries, dropout=0.1)
    assert sum(p.numel() for p in model.parameters()) == parameters_of(*sizes, words=(16, 12))
    source, previous = torch.randint(4, 16, (2, 5)), torch.randint(4, 12, (2, 3))
    model(source, previous).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.transformer.decoder.output_projection.weight is model.transformer.decoder.embed_tokens.weight
    assert set(TRANSFORMERS) == {"transformer_iwslt", "transformer_small"}


def small(dictionaries: tuple[Any, Any]) -> Translator:
    torch.manual_seed(1)
    return build_transformer("transformer_small", dictionaries, dropout=0.1)


def test_padding_the_source_does_not_change_the_logits(dictionaries: tuple[Any, Any]) -> None:
    model = small(dictionaries).eval()
    source, previous = torch.randint(4, 16, (2, 5)), torch.randint(4, 12, (2, 3))
    expected = model(source, previous)
    assert expected.shape == (2, 3, 12)
    found = model(torch.nn.functional.pad(source, (3, 0), value=1), previous)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_equal_seeds_give_equal_bits_and_loading_keeps_them(dictionaries: tuple[Any, Any]) -> None:
    """No buffer is left to chance, and a loaded network computes what the saved one does."""
    first, second = small(dictionaries), small(dictionaries)
    assert weights_sha256(first.state_dict()) == weights_sha256(second.state_dict())
    third = build_transformer("transformer_small", dictionaries, dropout=0.1)
    third.load_state_dict(first.state_dict())
    assert weights_sha256(third.state_dict()) == weights_sha256(first.state_dict())
    source, previous = torch.randint(4, 16, (2, 5)), torch.randint(4, 12, (2, 3))
    assert torch.equal(third.eval()(source, previous), first.eval()(source, previous))
