"""What a run learns: its data, its network, its loss, and the score of the network.

The loop knows minibatches and a loss. A kind of data is one subclass of ``Task`` and one line in ``registry.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from llqr_sam.data.streams import DatasetInfo, Samples, Share, TrainStream
from llqr_sam.engine.devices.team import Team
from llqr_sam.engine.records.record import Flatness, Scoring
from llqr_sam.engine.settings.run_settings import DatasetSettings, RunOptions, RunSettings


@dataclass(frozen=True)
class Scores:
    """How good a network is; the fields are those of ``CurvePoint``."""

    test_loss: float
    top1: float
    perplexity: float | None = None
    token_error: float | None = None
    bleu: float | None = None
    sacrebleu: float | None = None


class Loaded(Protocol):
    """Loaded data, as the loop sees it (``llqr_sam.data.loading.Splits``)."""

    @property
    def train(self) -> TrainStream: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def samples(self) -> Samples: ...


class Task:
    """Base of the tasks: one kind of data and what is learned from it in the run of ``settings``."""

    inputs: ClassVar[str]  # what the data sets hold, for messages
    own_keys: ClassVar[Mapping[str, Any]]  # settings of this task alone, with the value that other tasks leave them at
    required_keys: ClassVar[tuple[str, ...]]  # settings that must have a value
    several_devices: ClassVar[bool] = True  # whether several devices can train one run
    measures_flatness: ClassVar[bool] = False  # whether ``flatness`` is implemented
    keeps_best_weights: ClassVar[bool] = False  # whether ``keep_weights`` also keeps those of the best evaluation

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings

    @classmethod
    def datasets(cls) -> tuple[str, ...]:
        """Names of its data sets in their registry (``DatasetSettings.reader``)."""
        raise NotImplementedError

    @classmethod
    def archs(cls) -> tuple[str, ...]:
        """Names of its networks in their registry (``ArchSettings.builder``)."""
        raise NotImplementedError

    @classmethod
    def archs_for(cls, dataset: str) -> tuple[str, ...]:
        """The networks that take the inputs of the data set."""
        return cls.archs()

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Raise ValueError if data set, network and protocol do not fit; ``registry.check`` checks the attributes."""

    @classmethod
    def check_installed(cls, settings: RunSettings) -> None:
        """Raise ValueError if an optional package is missing; the message says what installs it."""

    @staticmethod
    def look_for(dataset: DatasetSettings, path: Path | None, root: Path) -> None:
        """Raise MissingDataError if the data set is not there; nothing is read."""
        raise NotImplementedError

    @staticmethod
    def fingerprint(dataset: DatasetSettings, path: Path | None, root: Path) -> str | None:
        """The ``fingerprint`` of the data set without loading it; ``None`` where that would take minutes.

        Raises MissingDataError, or ValueError where the data are not what they should be.
        """
        raise NotImplementedError

    @classmethod
    def shapes(cls, arch: str, dataset: str, words: tuple[int, int] | None = None) -> tuple[nn.Module, str]:
        """The network on the meta device, which takes no memory, and a description of what it is built for.

        ``words`` are those in the two dictionaries, for data sets that have some; None: as many as the data set's.
        ValueError, if they have no use or are too few, or an optional package is missing.
        """
        raise NotImplementedError

    def load(self, options: RunOptions, device: torch.device, share: Share) -> Loaded:
        """Load this process's share of the data set; minibatches are made on ``device``."""
        raise NotImplementedError

    def model(self, splits: Any) -> nn.Module:
        """A network for what ``load`` returned, with fresh weights from the global generator."""
        raise NotImplementedError

    def described(self, splits: Any) -> DatasetInfo | None:
        """What ``model_of`` needs to know of the data; ``None``: the network needs the data themselves."""
        return None

    def model_of(self, info: DatasetInfo) -> nn.Module:
        """The network of ``model`` without the data, for what ``described`` returned."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean training loss of a minibatch, 0-d."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, splits: Any, number: int | None, device: torch.device, team: Team) -> Scores:
        """Score the network, left in inference mode, on the ranks' test data; ``number`` is from 1, None: the last."""
        raise NotImplementedError

    def scoring(self) -> Scoring | None:
        """How the network is scored, for the record, where the scores alone do not say it."""
        return None

    def flatness(self, model: nn.Module, options: RunOptions, rho: float) -> Flatness:
        """Measure how flat the training loss is at the trained weights; rho > 0 is the radius of m-sharpness."""
        raise NotImplementedError
