"""Image classification: images to classes, scored by top-1 accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.data import registry as data
from llqr_sam.data.streams import WHOLE, DatasetInfo, Share, open_batches
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.records.record import Flatness
from llqr_sam.engine.settings.run_settings import RunOptions, RunSettings
from llqr_sam.engine.tasks.task import Scores, Task
from llqr_sam.models import registry as models


class Classification(Task):
    """Images to classes."""

    datasets = data.DATASETS
    archs = models.ARCHS  # type: ignore[assignment]
    inputs = "images"
    own_keys: ClassVar = {
        "protocol.batch_size": None,
        "protocol.augment": False,
        "dataset.subset": None,
        "dataset.validation": None,
        "dataset.label_noise": 0.0,
        "dataset.crop": "image",
        "arch.width": None,
        "precision.accumulate": 1,
        "precision.compile": False,
    }
    required_keys = ("protocol.batch_size",)
    measures_flatness = True

    @classmethod
    def archs_for(cls, dataset: str) -> tuple[str, ...]:
        """The networks that take images of the data set's size."""
        side = data.info(dataset).image_size
        return tuple(arch for arch in models.ARCHS if side in models.image_sizes(arch))

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """The network takes images of the data set's size, and a width if one is given."""
        dataset, arch, width = settings.dataset.name, settings.arch.name, settings.arch.width
        side, fitting = data.info(dataset).image_size, cls.archs_for(dataset)
        if arch not in fitting:
            takes = " or ".join(f"{s}x{s}" for s in models.image_sizes(arch))
            raise ValueError(
                f"arch={arch} takes images of {takes}, dataset={dataset} has {side}x{side}. "
                f"Choose arch from: {', '.join(fitting)}."
            )
        if width is not None and not models.takes_width(arch):
            adjustable = ", ".join(name for name in models.ARCHS if models.takes_width(name))
            raise ValueError(f"arch.width={width} has no use with arch={arch}. Only these take a width: {adjustable}.")

    @staticmethod
    def look_for(dataset: str, path: Path | None, root: Path) -> None:
        """The file or folder."""
        data.locate(dataset, path, root)

    @staticmethod
    def fingerprint(dataset: str, path: Path | None, root: Path) -> str | None:
        """``None`` for TinyImageNet."""
        return data.fingerprint(dataset, path, root)

    @classmethod
    def shapes(cls, arch: str, dataset: str, words: tuple[int, int] | None = None) -> tuple[nn.Module, str]:
        """The network for the official classes and image size."""
        if words is not None:
            raise ValueError(f"words= has no use with arch={arch} dataset={dataset}: it is for data sets of sentences.")
        known, side = data.info(dataset), data.info(dataset).image_size
        with torch.device("meta"):
            model = models.build(arch, classes=known.classes, image_size=side, channels=known.channels)
        return model, f"{known.classes} classes, {side} x {side} images"

    def load(self, options: RunOptions, device: torch.device, share: Share = WHOLE) -> data.Splits:
        """The data set with the run's augmentation and label noise."""
        dataset, protocol = self.settings.dataset, self.settings.protocol
        assert protocol.batch_size is not None  # registry.check
        return data.load(
            dataset.name,
            path=options.data_path,
            root=options.data_root,
            subset=dataset.subset,
            validation=dataset.validation,
            label_noise=dataset.label_noise,
            crop=dataset.crop,
            augment=protocol.augment,
            batch_size=protocol.batch_size,
            seed=self.settings.seed,
            device=device,
            workers=options.workers,
            share=share,
        )

    def described(self, splits: data.Splits) -> DatasetInfo:
        """With the classes found."""
        return splits.info

    def model(self, splits: data.Splits) -> nn.Module:
        """The network for as many classes as the data have."""
        return self.model_of(splits.info)

    def model_of(self, info: DatasetInfo) -> nn.Module:
        """The network for such images and as many classes."""
        arch, found = self.settings.arch, info
        return models.build(
            arch.name, classes=found.classes, image_size=found.image_size, channels=found.channels, width=arch.width
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with the protocol's label smoothing."""
        return F.cross_entropy(outputs, targets, label_smoothing=self.settings.protocol.label_smoothing)

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, splits: data.Splits, number: int | None, device: torch.device, team: Team = ALONE
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
