"""Translation: fairseq's data, network and scores in this project's loop.

Everything is per token. Padding has torch's ignored index in the targets; the loss below, the likelihood of LLQR's
curvature (``llqr_sam.methods.curvature.likelihoods``) and the scores leave it out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.data.streams import WHOLE, Share
from llqr_sam.data.translation import (
    CORPORA,
    IGNORED,
    Corpus,
    PairBatches,
    corpus_fingerprint,
    ensure_corpus,
    load_corpus,
)
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.records.record import Scoring
from llqr_sam.engine.settings.run_settings import DatasetSettings, RunOptions, RunSettings
from llqr_sam.engine.tasks.bleu import BleuScorer
from llqr_sam.engine.tasks.task import Scores, Task
from llqr_sam.fairseq_compat import HOW_TO_INSTALL, MissingFairseqError, fairseq_installed
from llqr_sam.methods.distributed import unwrapped
from llqr_sam.models.transformer import TRANSFORMERS, Translator, build_transformer, transformer_shapes

DICTIONARY_WORDS = {"iwslt14": 10_000, "multi30k": 4_000}  # about the number of merges of the joint BPE


def smoothed_loss(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """fairseq's label-smoothed cross-entropy, the mean in nats over the tokens that are not padding.

    Logits are ``[B, T, V]``, targets ``[B, T]`` with padding ``IGNORED``; ``smoothing`` in [0, 1) is the probability
    taken from the target and spread over the others.
    """
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

    kept = targets != IGNORED
    log_probabilities = F.log_softmax(outputs[kept], dim=-1)
    total: Tensor = label_smoothed_nll_loss(log_probabilities, targets[kept], smoothing)[0]
    return total / kept.sum()


class Translation(Task):
    """Sentences to sentences."""

    inputs = "sentences"
    own_keys: ClassVar = {f"protocol.{key}": None for key in ("max_tokens", "warmup_steps", "dropout", "bleu_every")}
    required_keys = ("protocol.max_tokens", "protocol.dropout")
    several_devices = False  # a minibatch is bounded by its tokens, so it has no equal shares
    keeps_best_weights = True

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self._scorer: BleuScorer | None = None

    @classmethod
    def datasets(cls) -> tuple[str, ...]:
        """The prepared corpora."""
        return CORPORA

    @classmethod
    def archs(cls) -> tuple[str, ...]:
        """fairseq's networks."""
        return TRANSFORMERS

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """A dense block of the embedding would have as many entries as the vocabulary squared."""
        if settings.optim.llqr and settings.optim.llqr.structure == "dense":
            name = settings.dataset.name
            raise ValueError(f"structure=dense does not fit dataset={name}: it squares the vocabulary.")

    @classmethod
    def check_installed(cls, settings: RunSettings) -> None:
        """fairseq has the data format, the network and the beam search."""
        if not fairseq_installed():
            raise ValueError(f"dataset={settings.dataset.name} needs fairseq. {HOW_TO_INSTALL}")

    @staticmethod
    def look_for(dataset: DatasetSettings, path: Path | None, root: Path) -> None:
        """The folder."""
        ensure_corpus(dataset.reader, (path or root / dataset.reader).expanduser())

    @staticmethod
    def fingerprint(dataset: DatasetSettings, path: Path | None, root: Path) -> str:
        """Of the dictionaries and of the binarised sentences."""
        return corpus_fingerprint(dataset.reader, (path or root / dataset.reader).expanduser())

    @classmethod
    def shapes(cls, arch: str, dataset: str, words: tuple[int, int] | None = None) -> tuple[nn.Module, str]:
        """The network for dictionaries of so many words."""
        source, target = words or (DICTIONARY_WORDS[dataset], DICTIONARY_WORDS[dataset])
        try:
            model = transformer_shapes(arch, (source, target))
        except MissingFairseqError as error:
            raise ValueError(f"arch={arch} cannot be counted: {error}") from None
        return model, f"dictionaries of {source} and {target} words"

    def load(self, options: RunOptions, device: torch.device, share: Share = WHOLE) -> Corpus:
        """Sentence pairs and fairseq's dictionaries; a batch takes less time than a step, so no workers make it."""
        settings = self.settings
        assert settings.protocol.max_tokens is not None  # registry.check
        corpus = load_corpus(
            settings.dataset.reader,
            path=options.data_path,
            root=options.data_root,
            max_tokens=settings.protocol.max_tokens,
            seed=settings.seed,
            device=device,
        )
        self._scorer = BleuScorer(corpus.valid.pairs, corpus.dictionaries)
        return corpus

    def model(self, splits: Corpus) -> nn.Module:
        """A Transformer for the corpus's dictionaries."""
        settings = self.settings
        return build_transformer(settings.arch.builder, splits.dictionaries, dropout=settings.protocol.dropout or 0.0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Label-smoothed cross-entropy per token."""
        return smoothed_loss(outputs, targets, self.settings.protocol.label_smoothing)

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, splits: Corpus, number: int | None, device: torch.device, team: Team = ALONE
    ) -> Scores:
        """Loss and error per validation token, and BLEU every ``protocol.bleu_every`` evaluations and at the end."""
        translator = unwrapped(model)
        assert isinstance(translator, Translator)
        assert self._scorer is not None  # load comes first
        model.eval()
        bleu = sacrebleu = None
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision.autocast == "bfloat16"):
            loss, token_error = _per_token(model, splits.valid)
            if math.isfinite(loss) and (number is None or number % (self.settings.protocol.bleu_every or 1) == 0):
                bleu, sacrebleu = self._scorer.of(self._scorer.translations(translator.transformer, splits.valid))
        perplexity = math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.inf
        return Scores(loss, 100 - token_error, perplexity, token_error, bleu, sacrebleu)

    def scoring(self) -> Scoring | None:
        """sacreBLEU's signature and the scores of copying."""
        return Scoring(self._scorer.signature, *self._scorer.copy) if self._scorer else None


def _per_token(model: nn.Module, batches: PairBatches) -> tuple[float, float]:
    """Mean cross-entropy (never smoothed) and error in percent."""
    loss, errors, tokens = 0.0, 0, 0
    for _, (inputs, targets) in batches:
        kept = targets != IGNORED
        outputs, targets = model(*inputs)[kept].float(), targets[kept]
        loss += F.cross_entropy(outputs, targets, reduction="sum").item()
        errors += int((outputs.argmax(dim=-1) != targets).sum())
        tokens += len(targets)
    return loss / tokens, 100 * errors / tokens
