"""Kept weights scored again, by the task of their run on the data of their run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from llqr_sam.data.streams import WHOLE, MissingDataError
from llqr_sam.engine.devices.device import arithmetic, device_name, find_device
from llqr_sam.engine.devices.team import ALONE
from llqr_sam.engine.records.record import Accuracy, Flatness, Record, epoch_words
from llqr_sam.engine.records.weights import read_weights
from llqr_sam.engine.settings.run_settings import RunOptions
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.engine.tasks.task import Scores
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import UsageError, usage_errors
from llqr_sam.suite.run.lookup import KnownRun, settings_of
from llqr_sam.suite.weights.network import kept_weights


@dataclass(frozen=True)
class Evaluation:
    """Scores of kept weights, beside those of the record."""

    record: Record
    path: Path  # of the weights
    best: bool  # whether they are those of the best evaluation, not the last ones
    device: str
    scores: Scores
    flatness: Flatness | None  # with sharpness=true

    @property
    def score(self) -> Accuracy:
        """As a record has it."""
        return Accuracy(self.scores.top1, self.then.epoch, self.scores.bleu)

    @property
    def then(self) -> Accuracy:
        """What the record has for these weights."""
        return self.record.metrics.best if self.best else self.record.metrics.last

    def lines(self) -> Iterator[str]:
        """What a person reads."""
        held_out = self.record.config["dataset"].get("validation")
        images = f"{held_out} held-out training images" if held_out else "the test set"
        on = images if self.scores.perplexity is None else "the validation pairs"
        yield f"{self.record.run_id}: {self.score.words} on {on}, on {self.device}"
        yield f"loss {self.scores.test_loss:.4f}" + (
            "" if self.scores.perplexity is None else f", perplexity {self.scores.perplexity:.2f}"
        )
        yield f"weights: {self.path}"
        yield f"record: {self._compared()}"
        if self.flatness is not None:
            values = ", ".join(f"{value:.4g}" for value in self.flatness.eigenvalues)
            yield f"largest eigenvalues of the Hessian: {values}"
            m, rho = self.flatness.m_sharpness, self.flatness.rho
            yield f"trace {self.flatness.trace:.4g}, m-sharpness {m:.4g} (rho {rho:g}, m {self.flatness.m})"

    def _compared(self) -> str:
        """The record's score and loss, and how far those here are from them."""
        then = self.then
        loss = next((point.test_loss for point in self.record.metrics.curve if point.epoch == then.epoch), None)
        if then.score is None or self.score.score is None or loss is None:
            return "it has no score"
        differences = self.score.score - then.score, self.scores.test_loss - loss
        words = f"{then.words}, loss {loss:.4f} (epoch {epoch_words(then.epoch)})"
        if not any(differences):
            return f"{words}, the same bit for bit"
        return f"{words}; here {differences[0]:+.3g} and {differences[1]:+.3g}"


@usage_errors()
def evaluate(run: KnownRun, command: Command, *, best: bool = False) -> Evaluation:
    """Score the kept weights of a run on its test set, as its last evaluation did.

    Args:
        run: A run that has ended.
        command: Says where the data are, on which device, and whether sharpness is measured.
        best: Take the weights of the best evaluation, where the task keeps some (translation).

    Raises:
        UsageError: The run has not ended or has no such weights, they are not its own, the data are missing or others,
            or a package or device is.
    """
    record, config = run.record, command.config
    if record is None:
        raise UsageError(f"{run.run_id} has not ended: only then are its weights kept.")
    settings = settings_of(run)
    name = settings.dataset.name
    task = tasks.task_for(settings.dataset.reader)(settings)
    if best and not task.keeps_best_weights:
        raise UsageError(f"weights=best has no use with dataset={name}: only the last weights of a run are kept.")
    tasks.check_installed(settings, flatness=config.sharpness)
    path = kept_weights(run.folder, best=best)
    state = read_weights(path, None if best else record.weights_sha256)
    device = find_device(config.device, 0, 1)
    data = command.value("dataset.path")
    options = RunOptions(
        workspace=config.paths.workspace,
        record_path=Path(),
        data_path=Path(data).expanduser() if data else None,
        data_root=config.paths.data.expanduser(),
        workers=command.value("dataset.workers"),
        sharpness_samples=config.sharpness_samples,
    )
    with arithmetic(deterministic=settings.precision.deterministic):
        try:
            splits = task.load(options, device, WHOLE)
        except MissingDataError as error:
            raise UsageError(str(error)) from error
        _check_data(record, splits.fingerprint, name)
        model = task.model(splits).to(device)
        model.load_state_dict(state)
        if settings.precision.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
        scores = task.evaluate(model, splits, None, device, ALONE)
        flatness = task.flatness(model, options, _radius(record, name)) if config.sharpness else None
    return Evaluation(record, path, best, device_name(device, 1), scores, flatness)


def _check_data(record: Record, here: str, name: str) -> None:
    """Check that the data are those of the run, as train.py does."""
    if record.data_sha256 not in (None, here):
        assert record.data_sha256 is not None
        other = f"dataset={name} has the data {here[:12]} here, the record is of {record.data_sha256[:12]}"
        raise UsageError(f"{other}: name those data with dataset.path= or paths.data=.")


def _radius(record: Record, dataset: str) -> float:
    """Radius of m-sharpness: the one that the run was measured at, else that of the SAM of the data set's protocol."""
    if record.sharpness is not None:
        return record.sharpness.rho
    own = [f"dataset={dataset}"] if dataset in groups()["dataset"] else []
    rho: float = Command.of(*own).value("protocol.methods.rho")
    return rho
