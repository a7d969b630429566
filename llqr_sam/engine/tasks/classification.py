"""Image classification: images to classes, scored by top-1 accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.data import registry as data
from llqr_sam.data.loading import Splits, load
from llqr_sam.data.own import ReadOptions
from llqr_sam.data.streams import WHOLE, DatasetInfo, Share, open_batches
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.records.record import Flatness
from llqr_sam.engine.settings.run_settings import DatasetSettings, RunOptions, RunSettings
from llqr_sam.engine.tasks.task import Scores, Task
from llqr_sam.models import registry as models
from llqr_sam.models.libraries import check_name


class Classification(Task):
    """Images to classes."""

    inputs = "images"
    own_keys: ClassVar = {
        "protocol.batch_size": None,
        "protocol.augment": False,
        "dataset.subset": None,
        "dataset.validation": None,
        "dataset.label_noise": 0.0,
        "dataset.crop": "image",
        "dataset.image_size": None,
        "dataset.test_fraction": None,
        "dataset.collection": None,
        "dataset.flip": None,
        "arch.width": None,
        "arch.model": None,
        "arch.pretrained": None,
        "arch.args": None,
        "precision.accumulate": 1,
        "precision.compile": False,
    }
    required_keys = ("protocol.batch_size",)
    measures_flatness = True

    @classmethod
    def datasets(cls) -> tuple[str, ...]:
        """The data sets of images."""
        return data.names()

    @classmethod
    def archs(cls) -> tuple[str, ...]:
        """The networks that take images."""
        return models.names()

    @classmethod
    def archs_for(cls, dataset: str) -> tuple[str, ...]:
        """The networks that are meant for images of the data set's size, or may take any."""
        known = data.known(dataset)
        return tuple(arch for arch in models.names() if known is None or _meant_for(arch, known.image_size))

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """The network takes images of the data set's size, if that is known, and what else is set has a use."""
        dataset, arch = settings.dataset.reader, settings.arch.builder
        known = data.known(dataset)
        if known is not None and not models.fits(arch, side := known.image_size):
            raise ValueError(
                f"arch={arch} takes images of {models.sides(arch)}, dataset={dataset} has {side}x{side}. "
                f"Choose arch from: {', '.join(cls.archs_for(dataset))}."
            )
        models.check_options(arch, **settings.arch.options)
        data.check_options(dataset, _options(settings.dataset))

    @classmethod
    def check_installed(cls, settings: RunSettings) -> None:
        """timm or torchvision has the network that is named."""
        if settings.arch.model is not None:
            check_name(settings.arch.builder, settings.arch.model)

    @staticmethod
    def look_for(dataset: DatasetSettings, path: Path | None, root: Path) -> None:
        """The file or folder."""
        data.locate(dataset.reader, path, root)

    @staticmethod
    def fingerprint(dataset: DatasetSettings, path: Path | None, root: Path) -> str | None:
        """``None`` for TinyImageNet and torchvision's collections."""
        return data.fingerprint(dataset.reader, path, root, _options(dataset))

    @classmethod
    def shapes(cls, arch: str, dataset: str, words: tuple[int, int] | None = None) -> tuple[nn.Module, str]:
        """The network for the official classes and image size."""
        if words is not None:
            raise ValueError(f"words= has no use with arch={arch} dataset={dataset}: it is for data sets of sentences.")
        known, side = data.info(dataset), data.info(dataset).image_size
        with torch.device("meta"):
            model = models.build(arch, classes=known.classes, image_size=side, channels=known.channels)
        return model, f"{known.classes} classes, {side} x {side} images"

    def load(self, options: RunOptions, device: torch.device, share: Share = WHOLE) -> Splits:
        """The data set with the run's augmentation and label noise."""
        dataset, protocol = self.settings.dataset, self.settings.protocol
        assert protocol.batch_size is not None  # registry.check
        return load(
            dataset.reader,
            path=options.data_path,
            root=options.data_root,
            subset=dataset.subset,
            validation=dataset.validation,
            flip=dataset.flip,
            options=_options(dataset),
            label_noise=dataset.label_noise,
            crop=dataset.crop,
            augment=protocol.augment,
            batch_size=protocol.batch_size,
            seed=self.settings.seed,
            device=device,
            workers=options.workers,
            share=share,
        )

    def described(self, splits: Splits) -> DatasetInfo:
        """With the classes found."""
        return splits.info

    def model(self, splits: Splits) -> nn.Module:
        """The network for as many classes as the data have."""
        return self.model_of(splits.info)

    def model_of(self, info: DatasetInfo) -> nn.Module:
        """The network for such images and as many classes."""
        arch, found = self.settings.arch, info
        return models.build(
            arch.builder,
            classes=found.classes,
            image_size=found.image_size,
            channels=found.channels,
            **arch.options,
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with the protocol's label smoothing."""
        return F.cross_entropy(outputs, targets, label_smoothing=self.settings.protocol.label_smoothing)

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, splits: Splits, number: int | None, device: torch.device, team: Team = ALONE
    ) -> Scores:
        """Top-1 and the mean cross-entropy, never smoothed, so that it can be compared between protocols."""
        precision, samples = self.settings.precision, 0
        correct = torch.zeros((), dtype=torch.int64, device=device)
        loss = torch.zeros((), dtype=torch.float64, device=device)
        model.eval()
        with open_batches(splits.test) as batches:
            for images, labels in batches:
                if precision.channels_last:
                    images = images.to(memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision.autocast == "bfloat16"):
                    outputs = model(images)
                correct += (outputs.argmax(dim=1) == labels).sum()
                loss += F.cross_entropy(outputs.float(), labels, reduction="sum")
                samples += len(labels)
        counted = team.sum(torch.stack([correct.double(), loss, torch.full_like(loss, samples)])).tolist()
        return Scores(counted[1] / counted[2], 100 * counted[0] / counted[2])

    def flatness(self, model: nn.Module, options: RunOptions, rho: float) -> Flatness:
        """On training images that are not augmented; m is the protocol's batch size."""
        from llqr_sam.engine.measurements.flatness import measure_flatness  # needs curvlinops

        protocol = self.settings.protocol
        assert protocol.batch_size is not None  # registry.check
        plain = Classification(replace(self.settings, protocol=replace(protocol, augment=False)))
        splits = plain.load(options, next(model.parameters()).device)
        return measure_flatness(model, splits.train, self.loss, rho, protocol.batch_size, options.sharpness_samples)


def _meant_for(arch: str, side: int) -> bool:
    """Whether a network is meant for images of this side, or may take any."""
    sides = models.image_sizes(arch)
    return not sides or side in sides


def _options(dataset: DatasetSettings) -> ReadOptions:
    return ReadOptions(dataset.image_size, dataset.test_fraction, dataset.collection)
