"""What a run learns: its data, its network, the loss, and how good the network is.

The loop knows minibatches and a loss; the rest is a task's. Image classification is one, translation the other
(``llqr_sam.engine.tasks.translation``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.data import registry as data
from llqr_sam.data.streams import Samples, Share, Splits, TrainStream, open_batches
from llqr_sam.engine.devices.team import Team
from llqr_sam.engine.records.record import Scoring
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks.evaluation import evaluate
from llqr_sam.models import registry as models


@dataclass(frozen=True)
class Scores:
    """How good a network is; the fields are those of ``CurvePoint``."""

    test_loss: float
    top1: float
    perplexity: float | None = None
    token_error: float | None = None
    bleu: float | None = None
    sacrebleu: float | None = None


class HasTrain(Protocol):
    """Loaded data, as the loop sees it."""

    @property
    def train(self) -> TrainStream:
        """What is trained on."""

    @property
    def fingerprint(self) -> str:
        """A hash of all samples as they are stored; of those that are only read in training, of their names."""

    @property
    def samples(self) -> Samples:
        """How many samples there are, of all ranks."""


Loaded = TypeVar("Loaded", bound=HasTrain)


class Task(Protocol[Loaded]):
    """What a run learns."""

    def load(self, path: Path | None, root: Path, device: torch.device, workers: int, share: Share) -> Loaded:
        """The data set; see ``RunOptions`` for the arguments, and ``share`` is this process's of each minibatch."""

    def model(self, splits: Loaded) -> nn.Module:
        """A network for the data, with fresh weights from the global generator."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean training loss of a minibatch, 0-d."""

    def evaluate(
        self, model: nn.Module, splits: Loaded, number: int | None, device: torch.device, *, bfloat16: bool, team: Team
    ) -> Scores:
        """How good the network is, over all ranks; its training mode is as before afterwards.

        Args:
            model: The network.
            splits: Its data.
            number: Of the evaluation, from 1; None: the last one.
            device: Where both are.
            bfloat16: Run the network under bfloat16 autocast.
            team: The ranks.
        """

    def scoring(self) -> Scoring | None:
        """How it was scored, for the record, where that needs saying."""


class Classification:
    """Images to classes.

    Args:
        settings: The run.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def load(self, path: Path | None, root: Path, device: torch.device, workers: int, share: Share) -> Splits:
        """See ``Task``."""
        settings = self._settings
        if settings.protocol.batch_size is None:
            raise ValueError(f"protocol.batch_size=null must be a number for dataset={settings.dataset.name}.")
        return data.load(
            settings.dataset.name,
            path=path,
            root=root,
            label_noise=settings.dataset.label_noise,
            crop=settings.dataset.crop,
            augment=settings.protocol.augment,
            batch_size=settings.protocol.batch_size,
            seed=settings.seed,
            device=device,
            workers=workers,
            share=share,
        )

    def model(self, splits: Splits) -> nn.Module:
        """See ``Task``."""
        arch, dataset = self._settings.arch, splits.info
        return models.build(
            arch.name,
            classes=dataset.classes,
            image_size=dataset.image_size,
            channels=dataset.channels,
            width=arch.width,
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with the protocol's label smoothing."""
        return F.cross_entropy(outputs, targets, label_smoothing=self._settings.protocol.label_smoothing)

    def evaluate(
        self, model: nn.Module, splits: Splits, number: int | None, device: torch.device, *, bfloat16: bool, team: Team
    ) -> Scores:
        """Top-1 and loss on the test images."""
        with open_batches(splits.test) as batches:
            if self._settings.precision.channels_last:
                batches = ((images.to(memory_format=torch.channels_last), labels) for images, labels in batches)
            top1, test_loss = evaluate(model, batches, device, bfloat16=bfloat16, team=team)
        return Scores(test_loss, top1)

    def scoring(self) -> None:
        """Nothing to say."""
