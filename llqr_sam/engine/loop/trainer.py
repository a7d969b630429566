"""One run's training loop, from any step boundary to the end.

All that changes while training is in the model, the optimizer (with U), ``Progress`` and the random state; the order
of the data and the learning rate are functions of the step. A checkpoint holds exactly these, so a run continued from
one does the same arithmetic as a run that was never stopped. Where several ranks train one run, all but the random
state is equal on all of them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.data.streams import Inputs, open_batches
from llqr_sam.engine.devices import device as devices
from llqr_sam.engine.devices.compilation import compiled
from llqr_sam.engine.devices.cuda_graphs import GraphedEvaluation, directly
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.loop.interruption import Interrupted, StopRequest
from llqr_sam.engine.loop.losses import Diverged, LossLog
from llqr_sam.engine.loop.schedules import LearningRate
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import CurvePoint, RefreshPoint, Seconds
from llqr_sam.engine.records.weights import all_finite
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks.task import HasTrain, Task
from llqr_sam.methods.factory import Method
from llqr_sam.methods.refresh import RefreshError

logger = logging.getLogger(__name__)


class CheckpointMismatchError(ValueError):
    """A checkpoint that belongs to another run, or to a run on other data."""


@dataclass
class Progress:
    """How far a run is, and what it has seen."""

    started: str  # ISO 8601, UTC
    step: int = 0  # finished optimizer steps
    resumes: int = 0
    curve: list[CurvePoint] = field(default_factory=list)
    refreshes: list[RefreshPoint] = field(default_factory=list)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Progress:
        """Inverse of ``dataclasses.asdict``."""
        points = [CurvePoint(**point) for point in state["curve"]]
        refreshes = [RefreshPoint(**point) for point in state["refreshes"]]
        return cls(**{**state, "curve": points, "refreshes": refreshes})


class Trainer:
    """Trains ``model`` with ``method`` on ``splits``.

    Args:
        settings: The run.
        task: What it learns.
        splits: Its data, on ``device`` as it comes; this rank's share of it.
        model: Its network, on ``device``; updated in place.
        method: Its optimizer and, where there is one, its metric, made for ``model``.
        device: Where all of it is.
        store: Where checkpoints go.
        watch: Gets the time of each part.
        started: When the run began, unless a checkpoint knows better (ISO 8601).
        checkpoint_minutes: Wall time between two checkpoints.
        observers: Who is told.
        team: The ranks that train this run together.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task[Any],
        splits: HasTrain,
        model: nn.Module,
        method: Method,
        device: torch.device,
        *,
        store: CheckpointStore,
        watch: Stopwatch,
        started: str,
        checkpoint_minutes: float = 10.0,
        observers: Sequence[Observer] = (),
        team: Team = ALONE,
    ) -> None:
        self.settings = settings
        self.task = task
        self.splits = splits
        self.model = model
        self.method = method
        self.device = device
        self.store = store
        self.folder = store.folder.parent  # of this run in the workspace
        self.watch = watch
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.last_save = time.monotonic()
        self.observers = observers
        self.progress = Progress(started)
        self.stop = StopRequest()
        self.team = team
        self.losses = LossLog(device, team=team)

        protocol, precision = settings.protocol, settings.precision
        self.steps_per_epoch = splits.train.steps_per_epoch
        self.steps = protocol.epochs * self.steps_per_epoch  # of the whole run
        self.evaluate_every = protocol.steps_between_evaluations(self.steps_per_epoch)
        self.rate = LearningRate(protocol, settings.optim.base.lr, self.steps_per_epoch)
        self.forward = compiled(model, deterministic=precision.deterministic) if precision.compile else model
        self.minibatch = GradientEvaluation(
            self.forward,
            self.task.loss,
            method.optimizer.zero_grad,
            watch,
            device,
            bfloat16=precision.autocast == "bfloat16",
            accumulate=precision.accumulate,
            average_gradients=partial(team.average_gradients, list(model.parameters())),
            run=GraphedEvaluation(model, device) if precision.cuda_graphs else directly,
        )

    def load(self) -> None:
        """Continue from the newest checkpoint, if there is one.

        Raises:
            CheckpointMismatchError: it is of a run with other settings, or on other data.
        """
        found = self.team.broadcast(self.store.load_latest() if self.team.is_first else None)
        if found is None:
            return
        _, state = found
        if state["run_id"] != self.settings.run_id:
            raise CheckpointMismatchError(
                f"the checkpoint in {self.store.folder} is of run {state['run_id']}, not of {self.settings.run_id}: "
                "its settings differ; remove it or use another workspace"
            )
        here = self.splits.fingerprint
        if (then := state.get("data", here)) != here:
            raise CheckpointMismatchError(
                f"the checkpoint in {self.store.folder} is of a run on other data, {then[:12]} where here are "
                f"{here[:12]}: name those data, remove the checkpoint or use another paths.workspace=."
            )
        self.model.load_state_dict(state["model"])
        self.method.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress.from_dict(state["progress"])
        self.progress.resumes += 1
        self.losses.load_state_dict(state["losses"])
        self.watch.resume(Seconds(**state["seconds"]))
        if self.team.rank < len(state["random"]):  # else the run was begun by fewer ranks
            devices.set_random_state(state["random"][self.team.rank], self.device)

    def save(self) -> None:
        """Write a checkpoint of this step boundary.

        Raises:
            Diverged: the losses or the weights are not finite; the checkpoints on disk stay as they are.
        """
        self.losses.drain()
        if not all_finite(self.model):
            raise Diverged(f"the weights are not finite after step {self.progress.step - 1}")
        state = {
            "run_id": self.settings.run_id,
            "data": self.splits.fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.method.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "losses": self.losses.state_dict(),
            "seconds": asdict(self.watch.seconds()),
            "random": self.team.gather(devices.random_state(self.device)),
        }
        if self.team.is_first:
            self.announce_save()
            self.store.save(self.progress.step, state)

    def announce_save(self) -> None:
        """Tell the observers that files of the run are about to be written."""
        for observer in self.observers:
            observer.on_save()

    def run(self) -> None:
        """Train to the end.

        Raises:
            Diverged: a loss or the weights are not finite, or U cannot be refreshed.
            Interrupted: a stop was asked for; a checkpoint has been written.
        """
        while self.progress.step < self.steps or self._evaluation_due():
            self._stretch()

    def info(self, device_name: str, git_commit: str | None) -> RunInfo:
        """What observers are told at the start."""
        return RunInfo(
            run_id=self.settings.run_id,
            config=self.settings.as_dict(),
            git_commit=git_commit,
            device=device_name,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            epochs=self.settings.protocol.epochs,
            steps_per_epoch=self.steps_per_epoch,
            first_step=self.progress.step,
            curve=tuple(self.progress.curve),
            refreshes=tuple(self.progress.refreshes),
            folder=self.folder,
            request_stop=self.stop,
            devices=self.team.size,
        )

    def _stretch(self) -> None:
        """Train to the next evaluation, or to the end of the epoch if that comes first, and evaluate if it is time.

        Whatever reads the minibatches is shut down before it is evaluated. A run that was stopped between a step and
        its evaluation goes on with the evaluation.
        """
        self.model.train()
        if not self._evaluation_due():
            with open_batches(self._batches(*divmod(self.progress.step, self.steps_per_epoch))) as batches:
                for inputs, targets in batches:
                    self._step(inputs, targets)
                    self._boundary()
                    if self._evaluation_due():
                        break
        if self._evaluation_due():
            self._evaluate()
            if self.progress.step < self.steps:
                self._boundary()

    def _evaluation_due(self) -> bool:
        step, curve = self.progress.step, self.progress.curve
        if step == (curve[-1].step if curve else 0):
            return False
        return step % self.evaluate_every == 0 or step == self.steps

    def _batches(self, epoch: int, start: int) -> Generator[tuple[Inputs, Tensor], None, None]:
        """Minibatches of the epoch from number ``start`` on, their making timed."""
        with open_batches(self.splits.train.batches(epoch, start)) as batches:
            while True:
                with self.watch("data"):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield self._formatted(batch[0]), batch[1]

    def _step(self, inputs: Inputs, targets: Tensor) -> None:
        step = self.progress.step
        self._refresh(step)
        rate = self.rate.at(step)
        for group in self.method.optimizer.param_groups:
            group["lr"] = rate
        self.minibatch.take(inputs, targets)
        self.method.optimizer.step(self.minibatch)  # type: ignore[arg-type]  # torch's stub wants a float
        self.progress.step = step + 1
        if self.losses.add(step, self.minibatch.loss):
            self.watch.settle()
        for observer in self.observers:
            observer.on_step(step + 1, self.losses.mean)

    def _refresh(self, step: int) -> None:
        """Refresh U where it is due, in float32 whatever the steps are computed in."""
        metric, llqr = self.method.metric, self.settings.optim.llqr
        if metric is None or llqr is None or not metric.refresh_due(step):
            return
        with self.watch("data"):
            inputs, targets = self.splits.train.sample(step, llqr.refresh_batch)
        try:
            with self.watch("refresh"):
                report = metric.refresh(self._formatted(inputs), targets, self.task.loss)
        except RefreshError as error:
            raise Diverged(f"the refresh before step {step} failed: {error}") from error
        if report.unreplayed and not self.progress.refreshes:
            logger.info("refreshes of U replay no trace of this network, and cost more for it: %s", report.unreplayed)
        if not report.accepted:
            logger.warning("the refresh before step %d was not finite: U stays as it was", step)
        point = RefreshPoint(
            step=step,
            objective_before=report.objective_before,
            objective_after=report.objective_after,
            relative_change=report.relative_change,
            fallbacks=report.fallbacks,
            seconds=report.seconds,
            unreplayed=report.unreplayed or None,
        )
        self.progress.refreshes.append(point)
        for observer in self.observers:
            observer.on_refresh(point)

    def _evaluate(self) -> None:
        """Evaluate the network and add a point to the curve."""
        self.losses.drain()
        step = self.progress.step
        with self.watch("evaluation"):
            number = None if step == self.steps else len(self.progress.curve) + 1
            scores = self.task.evaluate(self.forward, self.splits, number, self.device, self.team)
        if not math.isfinite(scores.test_loss):
            raise Diverged(f"the test loss is {scores.test_loss} after step {step - 1}")
        self.watch.settle()
        epoch, begun = divmod(step, self.steps_per_epoch)
        point = CurvePoint(
            epoch=epoch if begun == 0 else step / self.steps_per_epoch,
            step=step,
            lr=self.rate.at(step - 1),
            train_loss=self.losses.mean,
            seconds=self.watch.total,
            **asdict(scores),
        )
        self.losses.restart()
        self.progress.curve.append(point)
        for observer in self.observers:
            observer.on_epoch(point)

    def _boundary(self) -> None:
        """Between two steps: stop if any rank is asked to, save if it is time."""
        due = time.monotonic() - self.last_save >= self.checkpoint_seconds
        stop, signum, save = self.team.max_over_ranks(self.stop.made, self.stop.signum or 0, due)
        if stop:
            self.save()
            raise Interrupted(self.progress.step, self.store.folder, signum or None)
        if save:
            try:
                self.save()
            except OSError as error:  # a full disk: the older ones stand, and there may be room the next time
                logger.warning("the checkpoint of step %d is not written: %s", self.progress.step, error)
            self.last_save = time.monotonic()

    def _formatted(self, inputs: Inputs) -> Inputs:
        if self.settings.precision.channels_last and isinstance(inputs, Tensor):
            return inputs.to(memory_format=torch.channels_last)
        return inputs
