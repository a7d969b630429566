"""The training loop of one run, from any step boundary to the end.

Everything that changes in training is in the model, the optimizer (with U), ``TrainingState`` and the random state; the
order of the data and the learning rate are functions of the step. A checkpoint holds exactly these, so a resumed run
does the same arithmetic as one that was never stopped. All but the random state is equal on all ranks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from llqr_sam.data.streams import Inputs, Share, derived_seed, open_batches
from llqr_sam.engine.devices.acceleration import CudaGraph, compiled
from llqr_sam.engine.devices.device import random_state, set_random_state
from llqr_sam.engine.devices.team import ALONE, Team, with_sync_batch_norm
from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.loop.interruption import Interrupted, StopRequest
from llqr_sam.engine.loop.losses import Diverged, LossLog, all_finite
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.observers.observer import BestWeights, Observer
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import CurvePoint, RefreshPoint, Seconds
from llqr_sam.engine.settings.run_settings import RunOptions, RunSettings
from llqr_sam.engine.tasks.registry import task_for
from llqr_sam.methods import factory
from llqr_sam.methods.llqr import RefreshError
from llqr_sam.methods.settings import require

logger = logging.getLogger(__name__)


class CheckpointMismatchError(ValueError):
    """A checkpoint of another run, or of a run on other data."""


@dataclass
class TrainingState:
    """How far a run is, and what it has recorded so far."""

    started: str  # ISO 8601, UTC
    step: int = 0  # finished optimizer steps
    resumes: int = 0
    curve: list[CurvePoint] = field(default_factory=list)
    refreshes: list[RefreshPoint] = field(default_factory=list)


class Trainer:
    """Data, network, optimizer and loop of one run, on the ``device`` of this process."""

    def __init__(
        self,
        settings: RunSettings,
        options: RunOptions,
        device: torch.device,
        observers: Sequence[Observer] = (),
        team: Team = ALONE,
    ) -> None:
        self.settings, self.options, self.device, self.team = settings, options, device, team
        self.watch = Stopwatch(device)
        self.state = TrainingState(self.watch.started)
        self.stop = StopRequest()
        self.losses = LossLog(device, team=team)
        self.folder = options.workspace / settings.run_id
        self.checkpoints = CheckpointStore(self.folder / "checkpoints")
        self.last_save = time.monotonic()

        protocol, precision = settings.protocol, settings.precision
        self.task = task_for(settings.dataset.reader)(settings)
        self.splits = self.task.load(options, device, Share(team.rank, team.size))
        if (llqr := settings.optim.llqr) is not None:
            size, every = self.splits.train.size, "protocol.methods.refresh_batch= sets it for every method"
            problem = f"must be at most {size}, the training samples of dataset={settings.dataset.name}; {every}"
            require(llqr.refresh_batch <= size, "optim.refresh_batch", llqr.refresh_batch, problem)
        self.steps_per_epoch = self.splits.train.steps_per_epoch
        self.steps = protocol.epochs * self.steps_per_epoch  # of the whole run
        self.evaluate_every = protocol.steps_between_evaluations(self.steps_per_epoch)

        torch.manual_seed(settings.seed)
        model = self.task.model(self.splits).to(device)
        if precision.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
        self.model = with_sync_batch_norm(model, team, device)
        if not team.is_first:  # initial weights are a function of the seed; later draws (dropout) differ between ranks
            torch.manual_seed(derived_seed(settings.seed, "rank", team.rank))
        self.forward = compiled(self.model, deterministic=precision.deterministic) if precision.compile else self.model
        self.method = factory.build(
            settings.optim,
            self.model,
            process_group=team.group,
            shard=options.shard,
            fused=precision.fused,
            curvature_dtype=precision.curvature_dtype,
        )
        self.base_rates = [group["lr"] for group in self.method.optimizer.param_groups]  # at factor 1 of the schedule
        self.minibatch = GradientEvaluation(
            self.forward,
            self.task.loss,
            self.method.optimizer.zero_grad,
            self.watch,
            device,
            bfloat16=precision.autocast == "bfloat16",
            accumulate=precision.accumulate,
            average_gradients=partial(team.average_gradients, list(self.model.parameters())),
            graph=CudaGraph(self.model, device) if precision.cuda_graphs else None,
        )
        self.observers = [*observers]
        if options.keep_weights and self.task.keeps_best_weights:
            self.observers.append(BestWeights(self.model, self.folder / "best.pt"))

    def rate(self, step: int, base_lr: float) -> float:
        """Learning rate of an optimizer step; ``base_lr`` is a parameter group's own."""
        return self.settings.protocol.learning_rate(step, base_lr, self.steps_per_epoch)

    def load(self) -> None:
        """Continue from the newest checkpoint, if there is one; CheckpointMismatchError, if it is not of this run."""
        found = self.team.broadcast(self.checkpoints.load_latest() if self.team.is_first else None)
        if found is None:
            return
        _, saved = found
        which, run_id = f"the checkpoint in {self.checkpoints.folder} is of", self.settings.run_id
        if saved["run_id"] != run_id:
            wrong = f"{which} run {saved['run_id']}, not of {run_id}: its settings differ"
            raise CheckpointMismatchError(f"{wrong}; remove it or use another paths.workspace=.")
        here = self.splits.fingerprint
        if (then := saved.get("data", here)) != here:
            wrong = f"{which} a run on other data, {then[:12]} where here are {here[:12]}: name those data"
            raise CheckpointMismatchError(f"{wrong}, remove it or use another paths.workspace=.")
        self.model.load_state_dict(saved["model"])
        self.method.optimizer.load_state_dict(saved["optimizer"])
        progress = saved["progress"]
        self.state = TrainingState(
            progress["started"],
            progress["step"],
            progress["resumes"] + 1,
            [CurvePoint(**point) for point in progress["curve"]],
            [RefreshPoint(**point) for point in progress["refreshes"]],
        )
        self.losses.load_state_dict(saved["losses"])
        self.watch.resume(Seconds(**saved["seconds"]))
        if self.team.rank < len(saved["random"]):  # otherwise fewer ranks saved it
            set_random_state(saved["random"][self.team.rank], self.device)

    def save(self) -> None:
        """Write a checkpoint of this step boundary; raises ``Diverged`` if losses or weights are not finite."""
        self.losses.drain()
        if not all_finite(self.model):
            raise Diverged(f"the weights are not finite after step {self.state.step - 1}")
        state = {
            "run_id": self.settings.run_id,
            "data": self.splits.fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.method.optimizer.state_dict(),
            "progress": asdict(self.state),
            "losses": self.losses.state_dict(),
            "seconds": asdict(self.watch.seconds()),
            "random": self.team.gather(random_state(self.device)),
        }
        if self.team.is_first:
            self.announce_save()
            self.checkpoints.save(self.state.step, state)

    def announce_save(self) -> None:
        """Tell the observers that files of the run are about to be written."""
        for observer in self.observers:
            observer.on_save()

    def run(self) -> None:
        """Train to the end; raises ``Diverged``, or ``Interrupted`` with a checkpoint written."""
        while self.state.step < self.steps or self._evaluation_due():
            self.forward.train()
            self._set_optimizer("train")
            self._train_to_evaluation()  # no step, if the run was stopped between a step and its evaluation
            if self._evaluation_due():
                self._evaluate()
                if self.state.step < self.steps:
                    self._boundary()

    def _train_to_evaluation(self) -> None:
        """Train to the next evaluation or to the end of the epoch; the readers of minibatches are then shut down."""
        with open_batches(self.splits.train.batches(*divmod(self.state.step, self.steps_per_epoch))) as batches:
            while not self._evaluation_due():
                with self.watch("data"):
                    batch = next(batches, None)
                if batch is None:
                    return
                self._step(*batch)
                self._boundary()

    def _evaluation_due(self) -> bool:
        step, curve = self.state.step, self.state.curve
        if step == (curve[-1].step if curve else 0):
            return False
        return step % self.evaluate_every == 0 or step == self.steps

    def _step(self, inputs: Inputs, targets: Tensor) -> None:
        step = self.state.step
        self._refresh_if_due(step)
        for group, base_lr in zip(self.method.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = self.rate(step, base_lr)
        self.minibatch.take(self._formatted(inputs), targets)
        self.method.optimizer.step(self.minibatch)  # type: ignore[arg-type]  # torch's stub wants a float
        self.state.step = step + 1
        if self.losses.add(step, self.minibatch.loss):
            self.watch.settle()
        for observer in self.observers:
            observer.on_step(step + 1, self.losses.mean)

    def _refresh_if_due(self, step: int) -> None:
        """Refresh U; its arithmetic is that of ``precision.refresh``, whatever the steps use."""
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
        if report.unreplayed and not self.state.refreshes:
            logger.info("refreshes of U replay no trace of this network, and cost more for it: %s", report.unreplayed)
        if not report.accepted:
            logger.warning("the refresh before step %d was not finite: U stays as it was", step)
        values = asdict(report) | {"unreplayed": report.unreplayed or None}
        del values["accepted"]
        point = RefreshPoint(step, **values)
        self.state.refreshes.append(point)
        for observer in self.observers:
            observer.on_refresh(point)

    def _evaluate(self) -> None:
        """Evaluate the network and add a point to the curve."""
        self.losses.drain()
        step = self.state.step
        number = None if step == self.steps else len(self.state.curve) + 1
        self._set_optimizer("eval")  # until the next step: the weights that are kept are those that were evaluated
        with self.watch("evaluation"):
            scores = self.task.evaluate(self.forward, self.splits, number, self.device, self.team)
        if not math.isfinite(scores.test_loss):
            raise Diverged(f"the test loss is {scores.test_loss} after step {step - 1}")
        self.watch.settle()
        epoch, begun = divmod(step, self.steps_per_epoch)
        point = CurvePoint(
            epoch=epoch if begun == 0 else step / self.steps_per_epoch,
            step=step,
            lr=self.rate(step - 1, self.base_rates[0]),
            train_loss=self.losses.mean,
            seconds=self.watch.total,
            **asdict(scores),
        )
        self.losses.restart()
        self.state.curve.append(point)
        for observer in self.observers:
            observer.on_epoch(point)

    def _set_optimizer(self, mode: Literal["train", "eval"]) -> None:
        """Calls the optimizer's ``train`` or ``eval``, where it has one: ScheduleFree evaluates averaged weights."""
        getattr(self.method.optimizer, mode, lambda: None)()

    def _boundary(self) -> None:
        """Between two steps: stop if any rank is asked to, save if it is time (interruption.py)."""
        due = time.monotonic() - self.last_save >= 60 * self.options.checkpoint_minutes
        stop, signum, save = self.team.max_over_ranks(self.stop.made, self.stop.signum or 0, due)
        if stop:
            self.save()
            raise Interrupted(self.state.step, self.checkpoints.folder, signum or None)
        if save:
            try:
                self.save()
            except OSError as error:  # a full disk: the older ones are kept, and there may be room next time
                logger.warning("the checkpoint of step %d is not written: %s", self.state.step, error)
            self.last_save = time.monotonic()

    def _formatted(self, inputs: Inputs) -> Inputs:
        if self.settings.precision.channels_last and isinstance(inputs, Tensor):
            return inputs.to(memory_format=torch.channels_last)
        return inputs
