"""BLEU of whole words, by fairseq and by sacreBLEU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llqr_sam.data.translation import Corpus, load_corpus
from llqr_sam.engine.tasks.bleu import BleuScorer
from llqr_sam.engine.tasks.translation import smoothed_loss
from llqr_sam.models.transformer import build_transformer

pytestmark = pytest.mark.nmt


@pytest.fixture
def corpus(captions: Path) -> Corpus:
    return load_corpus("multi30k", path=None, root=captions, max_tokens=400, seed=0, device=torch.device("cpu"))


def test_the_reference_scores_100_and_nothing_scores_0(corpus: Corpus) -> None:
    scorer = BleuScorer(corpus.valid.pairs, corpus.dictionaries)
    reference = corpus.dictionaries[1]
    lines = [reference.string(corpus.valid.pairs.tgt[i], "subword_nmt", escape_unk=True) for i in range(40)]
    assert scorer.of(lines) == pytest.approx((100.0, 100.0))
    assert scorer.of([""] * 40) == (0.0, 0.0)
    shifted = scorer.of([*lines[1:], lines[0]])
    assert all(score < 20 for score in shifted)


def test_tokenised_bleu_is_sacrebleus_on_the_same_tokens(corpus: Corpus) -> None:
    """An outside judge: sacreBLEU with the tokenisation left as it is and no smoothing."""
    from sacrebleu.metrics import BLEU

    scorer = BleuScorer(corpus.valid.pairs, corpus.dictionaries)
    dictionary = corpus.dictionaries[1]
    lines = [dictionary.string(corpus.valid.pairs.tgt[i], "subword_nmt", escape_unk=True) for i in range(40)]
    worse = [" ".join(line.split()[: 1 + len(line.split()) * 3 // 4]) for line in lines]
    judge = BLEU(tokenize="none", smooth_method="none").corpus_score(worse, [lines]).score
    assert 20 < judge < 90
    assert scorer.of(worse)[0] == pytest.approx(judge, abs=1e-4)


def test_every_pair_gets_its_own_translation(corpus: Corpus) -> None:
    """A network that is learning the 40 pairs by heart gives each its own reference, not another's."""
    scorer = BleuScorer(corpus.valid.pairs, corpus.dictionaries)
    model = build_transformer("transformer_small", corpus.dictionaries, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(200):
        losses = []
        for _, (inputs, targets) in corpus.valid:
            loss = smoothed_loss(model(*inputs), targets, 0.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if max(losses) < 0.5:
            break
    with torch.no_grad():
        found = scorer.translations(model.transformer.eval(), corpus.valid)
    assert "@@" not in " ".join(found)
    own, others = scorer.of(found), scorer.of(found[::-1])
    assert min(own) > 5
    assert min(own) > 5 * max(others)
