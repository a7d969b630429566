"""Translation: fairseq's data, network and scores in this project's loop.

Everything is per token. Padding is marked in the targets by torch's ignored index, and the loss below, the likelihood
of LLQR's curvature (``llqr_sam.methods.curvature.likelihoods``) and the scores all leave it out.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.data.streams import WHOLE, Share
from llqr_sam.data.translation import IGNORED, Corpus, PairBatches, load_corpus
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.records.record import Scoring
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks.bleu import BleuScorer
from llqr_sam.engine.tasks.task import Scores
from llqr_sam.methods.distributed import unwrapped
from llqr_sam.models.transformer import Translator, build_transformer


def smoothed_loss(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """fairseq's label-smoothed cross-entropy, the mean over the tokens that are not padding, in nats.

    Args:
        outputs: Logits ``[B, T, V]``.
        targets: Tokens ``[B, T]``, padding ``IGNORED``.
        smoothing: Probability taken from the target and spread over the others, in [0, 1).
    """
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

    kept = targets != IGNORED
    log_probabilities = F.log_softmax(outputs[kept], dim=-1)
    total: Tensor = label_smoothed_nll_loss(log_probabilities, targets[kept], smoothing)[0]
    return total / kept.sum()


class Translation:
    """Sentences to sentences.

    Args:
        settings: The run.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._scorer: BleuScorer | None = None

    def load(self, path: Path | None, root: Path, device: torch.device, workers: int, share: Share) -> Corpus:
        """See ``Task``; a batch is made in less time than a step takes, so no ``workers`` are started for it.

        Raises:
            ValueError: a share of the minibatches is asked for; sentences are not divided among devices.
        """
        settings = self._settings
        if share != WHOLE:
            raise ValueError(f"devices={share.count} has no use with dataset={settings.dataset.name}: use devices=1.")
        assert settings.protocol.max_tokens is not None  # llqr_sam.suite.config.resolve
        corpus = load_corpus(
            settings.dataset.name,
            path=path,
            root=root,
            max_tokens=settings.protocol.max_tokens,
            seed=settings.seed,
            device=device,
        )
        self._scorer = BleuScorer(corpus.valid.pairs, corpus.dictionaries)
        return corpus

    def model(self, splits: Corpus) -> nn.Module:
        """See ``Task``."""
        settings = self._settings
        return build_transformer(settings.arch.name, splits.dictionaries, dropout=settings.protocol.dropout or 0.0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Label-smoothed cross-entropy per token."""
        return smoothed_loss(outputs, targets, self._settings.protocol.label_smoothing)

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        splits: Corpus,
        number: int | None,
        device: torch.device,
        *,
        bfloat16: bool,
        team: Team = ALONE,
    ) -> Scores:
        """Loss and error per validation token and, where the schedule asks for it, BLEU."""
        translator = unwrapped(model)
        assert isinstance(translator, Translator)
        assert self._scorer is not None  # load comes first
        training = model.training
        model.eval()
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                loss, token_error = _per_token(model, splits.valid)
                bleu = sacrebleu = None
                if math.isfinite(loss) and self._is_scored(number):
                    bleu, sacrebleu = self._scorer.of(self._scorer.translations(translator.transformer, splits.valid))
        finally:
            model.train(training)
        perplexity = math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.inf
        return Scores(loss, 100 - token_error, perplexity, token_error, bleu, sacrebleu)

    def scoring(self) -> Scoring | None:
        """sacreBLEU's signature and the scores of copying."""
        return Scoring(self._scorer.signature, *self._scorer.copy) if self._scorer else None

    def _is_scored(self, number: int | None) -> bool:
        return number is None or number % (self._settings.protocol.bleu_every or 1) == 0


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
