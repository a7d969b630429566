"""Translation in the loop: what padding may not change, bit-exact resume, scores and their schedule."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llqr_sam.data.streams import Samples
from llqr_sam.data.translation import IGNORED, Corpus, load_corpus
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.records.record import read_record
from llqr_sam.engine.settings.run_settings import RunOptions, RunSettings
from llqr_sam.engine.tasks.translation import smoothed_loss
from llqr_sam.methods.curvature.likelihoods import Categorical
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Fisher
from llqr_sam.methods.settings import MethodSettings
from llqr_sam.models.transformer import Translator, build_transformer
from tests.engine.conftest import StopAt
from tests.engine.loop.test_trainer import timeless
from tests.suite.plans import settings_of

pytestmark = pytest.mark.nmt

PADDING = 1  # fairseq's


@pytest.fixture
def corpus(captions: Path) -> Corpus:
    return load_corpus("multi30k", path=None, root=captions, max_tokens=400, seed=0, device=torch.device("cpu"))


@pytest.fixture
def network(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Translator:
    """In float64, also where fairseq's attention goes down to float32, and in inference mode."""
    from fairseq import utils

    monkeypatch.setattr(utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
    return build_transformer("transformer_small", corpus.dictionaries, dropout=0.3).double().eval()


def padded(inputs: tuple[Tensor, Tensor], targets: Tensor, by: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The same minibatch with ``by`` more columns of padding: left of the source, right of the target."""
    source, previous = inputs
    more = torch.nn.functional.pad
    return (more(source, (by, 0), value=PADDING), more(previous, (0, by), value=PADDING)), more(
        targets, (0, by), value=IGNORED
    )


def small(optim: str, **protocol: Any) -> RunSettings:
    """Two epochs of the captions; U is refreshed, and SAM begins, within the first."""
    settings = settings_of("dataset=multi30k", f"optim={optim}")
    changes: dict[str, Any] = {"start_step": 5} if settings.optim.sam else {}
    if settings.optim.llqr:
        changes |= {"interval": 7, "inner_steps": 3, "refresh_batch": 8}
    return dataclasses.replace(
        settings,
        protocol=dataclasses.replace(settings.protocol, **{"max_tokens": 1000, "warmup_steps": 5, **protocol}),
        optim=MethodSettings.from_keys(settings.optim.as_keys() | changes),
    )


def options(folder: Path, captions: Path, **changes: Any) -> RunOptions:
    made = RunOptions(folder, folder / "record.json", data_root=captions, device="cpu")
    return dataclasses.replace(made, **changes)


def test_more_padding_changes_nothing_in_gradient_and_curvature(corpus: Corpus, network: Translator) -> None:
    """g and H v of LLQR's refresh on a minibatch of sentences of many lengths, and on the same one padded further."""
    inputs, targets = corpus.train.sample(step=0, size=6)
    assert (targets == IGNORED).any()
    v = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    found = []
    for batch in ((inputs, targets), padded(inputs, targets, by=4)):
        curvature = Fisher(Categorical(), "sum").at(point_of(network, *batch, lambda z, y: smoothed_loss(z, y, 0.1)))
        found.append((curvature.gradient, curvature.product(v)))
    for expected, other in zip(*found, strict=True):
        rounding = 1e-12 * torch.cat([x.flatten() for x in expected.values()]).norm()
        for name in v:
            assert (other[name] - expected[name]).norm() <= rounding + 1e-10 * expected[name].norm()
    assert all(h.abs().max() > 0 for h in found[0][1].values())


def test_the_curvature_is_that_of_each_token(corpus: Corpus, network: Translator) -> None:
    """v' H v = the variance of J v under each kept token's softmax, J v by finite differences."""
    inputs, targets = corpus.train.sample(step=1, size=3)
    v = {name: 0.01 * torch.randn_like(p) for name, p in network.named_parameters()}
    point = point_of(network, inputs, targets, lambda z, y: smoothed_loss(z, y, 0.0))
    curvature = Fisher(Categorical(), "sum").at(point)
    product = curvature.product(v)
    h = 1e-5

    def outputs(at: float) -> Tensor:
        moved = {name: p + at * v[name] for name, p in network.named_parameters()}
        return torch.func.functional_call(network, moved, inputs)[targets != IGNORED].detach()

    pushed, p = (outputs(h) - outputs(-h)) / (2 * h), outputs(0.0).softmax(dim=-1)
    variance = (p * pushed.square()).sum(-1) - (p * pushed).sum(-1).square()
    expected = sum((v[name] * product[name]).sum() for name in v)
    torch.testing.assert_close(expected, variance.sum(), rtol=1e-6, atol=0)


def test_the_loss_is_fairseqs_mean_over_tokens(corpus: Corpus, network: Translator) -> None:
    """fairseq's criterion sums over a flattened minibatch and leaves padding out by its index."""
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

    (inputs, targets) = corpus.train.sample(step=2, size=5)
    outputs = network(*inputs)
    log_probabilities = outputs.log_softmax(dim=-1).flatten(0, 1)
    words = targets.masked_fill(targets == IGNORED, PADDING).flatten()
    total, _ = label_smoothed_nll_loss(log_probabilities, words, 0.1, ignore_index=PADDING)
    torch.testing.assert_close(smoothed_loss(outputs, targets, 0.1), total / (words != PADDING).sum())
    plain = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(smoothed_loss(outputs, targets, 0.0), plain)


@pytest.mark.parametrize("optim", ["adamw", "llqr", "sam", "llqr_sam"])
def test_resume_is_bitwise(optim: str, captions: Path, tmp_path: Path) -> None:
    """Dropout, order of the data, U and AdamW's averages: stopped before, at and after a refresh and an evaluation."""
    settings = small(optim, bleu_every=2)
    whole = execute(settings, options(tmp_path / "whole", captions))
    epoch = whole.metrics.curve[0].step
    assert epoch > 9
    stops = [StopAt(4), StopAt(7), StopAt(epoch=1), StopAt(2 * epoch - 1)]
    for stop in stops:
        with pytest.raises(Interrupted):
            execute(settings, options(tmp_path / "pieces", captions), [stop])
    pieces = execute(settings, options(tmp_path / "pieces", captions))
    assert timeless(pieces) == timeless(whole)
    assert pieces.weights_sha256 == whole.weights_sha256
    assert pieces.resumes == len(stops)
    assert len(whole.refreshes) == (math.ceil(2 * epoch / 7) if "llqr" in optim else 0)
    assert (whole.seconds.second_pass > 0) == ("sam" in optim)


def test_scores_are_in_the_record_and_the_best_weights_are_kept(captions: Path, tmp_path: Path) -> None:
    """BLEU after every second epoch and the last; loss, perplexity and error after each; all of it in the file."""
    settings = small("adamw", epochs=3, bleu_every=2)
    record = execute(settings, options(tmp_path, captions, keep_weights=True))
    assert read_record(tmp_path / "record.json") == record
    curve, scoring = record.metrics.curve, record.metrics.scoring
    assert [point.bleu is not None for point in curve] == [False, True, True]
    assert [point.sacrebleu is not None for point in curve] == [False, True, True]
    assert curve[-1].test_loss < curve[0].test_loss
    for point in curve:
        assert point.perplexity == pytest.approx(math.exp(point.test_loss))
        assert point.token_error == pytest.approx(100 - point.top1)
    assert scoring is not None
    assert scoring.sacrebleu_signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert 0 <= scoring.copy_bleu < 5
    assert record.samples == Samples(600, 40)
    best = record.metrics.best
    assert best.bleu == best.score == max(point.bleu or 0.0 for point in curve)
    folder = tmp_path / settings.run_id
    assert {path.name for path in folder.iterdir()} == {"best.pt", "weights.pt", "weights.json"}
    if best.epoch == 3:
        last, kept = (torch.load(folder / name, weights_only=True) for name in ("weights.pt", "best.pt"))
        assert all(torch.equal(last[name], kept[name]) for name in last)


def test_evaluations_at_other_times_than_the_ends_of_epochs(captions: Path, tmp_path: Path) -> None:
    """Every second evaluation is scored, whatever the epoch, and so is the last; stopped in between, it is the same."""
    settings = small("adamw", evaluate_every="6steps", bleu_every=2)
    whole = execute(settings, options(tmp_path / "whole", captions))
    curve = whole.metrics.curve
    steps = curve[-1].step
    assert [point.step for point in curve] == [*range(6, steps, 6), steps]
    scored = [number % 2 == 0 or number == len(curve) for number in range(1, len(curve) + 1)]
    assert [point.bleu is not None for point in curve] == scored
    assert whole.metrics.best_of == sum(scored)
    assert curve[-1].epoch == 2
    for step in (6, 8, 12):
        with pytest.raises(Interrupted):
            execute(settings, options(tmp_path / "pieces", captions), [StopAt(step)])
    assert timeless(execute(settings, options(tmp_path / "pieces", captions))) == timeless(whole)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "diag_kfac"])
def test_every_structure_trains_with_tied_embeddings(structure: str, captions: Path, tmp_path: Path) -> None:
    settings = small("llqr_sam", epochs=1)
    optim = MethodSettings.from_keys(settings.optim.as_keys() | {"structure": structure})
    settings = dataclasses.replace(settings, optim=optim)
    record = execute(settings, options(tmp_path, captions))
    assert record.status == "finished"
    assert all(point.relative_change is not None and point.relative_change > 0 for point in record.refreshes)
