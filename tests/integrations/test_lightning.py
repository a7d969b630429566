"""Lightning's own trainer trains as a plain loop does, and what it cannot do it says in one sentence."""

from __future__ import annotations

import contextlib
import copy
import csv
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DistributedSampler

from llqr_sam import LLQR, SharpnessAware
from llqr_sam.torchvision_compat import ensure_torchvision
from tests.methods.networks import mean_loss

pytestmark = pytest.mark.integrations
ensure_torchvision()  # torchmetrics imports torchvision, whose wheel may not match a CPU build of torch
pl = pytest.importorskip("lightning.pytorch")
torchmetrics = pytest.importorskip("torchmetrics")

from llqr_sam.integrations.lightning import SharpnessAwareCallback  # noqa: E402

MulticlassAccuracy = torchmetrics.classification.MulticlassAccuracy
MulticlassAUROC = torchmetrics.classification.MulticlassAUROC
MulticlassPrecision = torchmetrics.classification.MulticlassPrecision
ROWS, BATCH = 64, 8


def network(dtype=torch.float64):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).to(dtype)


def data(dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(ROWS, 6, generator=generator, dtype=dtype), torch.randint(0, 5, (ROWS,), generator=generator)


def batches(dtype=torch.float64, size=BATCH):
    return list(zip(*(t.split(size) for t in data(dtype)), strict=True))


def composed(net, **options):
    group = dist.group.WORLD if dist.is_initialized() else None
    metric = LLQR(net, structure="kfac", inner_steps=5, interval=2, ema=0.5, process_group=group)
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return SharpnessAware(base, rho=0.1, probe=metric, transport=metric, **options)


class Module(pl.LightningModule):
    """A classifier under automatic optimization."""

    def __init__(self, net=None, size=BATCH, **options):
        super().__init__()
        self.net, self.size, self.options = network() if net is None else net, size, options
        self.first_losses, self.outputs = [], []

    def train_dataloader(self):
        """All rows in order; under several processes this rank's."""
        dtype = next(self.net.parameters()).dtype
        rows = torch.utils.data.TensorDataset(*data(dtype if dtype.itemsize > 2 else torch.float32))
        sampler = DistributedSampler(rows, shuffle=False) if dist.is_initialized() else None
        return torch.utils.data.DataLoader(rows, batch_size=self.size, sampler=sampler)

    def configure_optimizers(self):
        return composed(self.net, **self.options)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = mean_loss(self.net(inputs), targets)
        if not self.optimizers().perturbed:
            self.first_losses.append(loss.item())
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.outputs.append(outputs["loss"].item())


def trainer(folder, epochs=1, callback=True, **options):
    quietly = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    options = {"enable_checkpointing": False, "logger": False, **quietly, **options}
    callbacks = [*([SharpnessAwareCallback(mean_loss)] if callback else []), *options.pop("callbacks", [])]
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=epochs, callbacks=callbacks, **options)


def plain(epochs=1, size=BATCH, clip=None, autocast=False, schedule=None, refreshed_on=None, dtype=torch.float64):
    """The weights of the same training in a plain loop, and the losses of the first passes."""
    net = network(dtype)
    optimizer = composed(net)
    if clip is not None:
        optimizer.base.register_step_pre_hook(lambda *_: clip(net.parameters()))
    scheduler = None if schedule is None else schedule(optimizer)
    losses = []
    for _ in range(epochs):
        for inputs, targets in batches(dtype, size):
            optimizer.probe.refresh_if_due(inputs[:refreshed_on], targets[:refreshed_on], mean_loss)

            def closure(inputs=inputs, targets=targets):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = mean_loss(net(inputs), targets)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())
            if scheduler is not None:
                scheduler.step()
    return net.state_dict(), losses


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b):
    return all(torch.allclose(a[name], b[name], rtol=0, atol=1e-10) for name in a)


def falls(losses):
    """From the first epoch to the last."""
    epoch = ROWS // BATCH
    return sum(losses[-epoch:]) < 0.95 * sum(losses[:epoch])


def test_automatic_optimization_is_the_plain_loop(tmp_path):
    """Bit for bit, with the same refreshes; a batch's output is the loss at theta."""
    module = Module()
    trainer(tmp_path, epochs=2).fit(module)
    weights, losses = plain(epochs=2)
    assert identical(module.net.state_dict(), weights)
    assert module.first_losses == module.outputs == losses


def test_a_batch_may_have_any_form(tmp_path):
    class Keyed(Module):
        def train_dataloader(self):
            rows = [{"x": x, "y": y} for x, y in zip(*data(), strict=True)]
            return torch.utils.data.DataLoader(rows, batch_size=BATCH)

        def training_step(self, batch, batch_idx):
            return super().training_step((batch["x"], batch["y"]), batch_idx)

    with pytest.raises(ValueError, match=r"the batch is a dict, not a pair; .*split=.*\.$"):
        trainer(tmp_path).fit(Keyed())
    module = Keyed()
    callback = SharpnessAwareCallback(mean_loss, lambda batch: (batch["x"], batch["y"]))
    trainer(tmp_path, callback=False, callbacks=[callback]).fit(module)
    assert identical(module.net.state_dict(), plain()[0])


def test_refreshes_are_logged_at_their_steps(tmp_path):
    """Every second step, with the report of a refresh in a plain loop."""
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer(tmp_path, logger=logger).fit(Module())
    net = network()
    report = composed(net).probe.refresh(*batches()[0], mean_loss)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        first, *later = [row for row in csv.DictReader(file) if row["llqr/objective"]]
    assert [int(row["step"]) for row in (first, *later)] == [0, 2, 4, 6]
    assert float(first["llqr/objective"]) == report.objective_after
    assert float(first["llqr/relative_change"]) == report.relative_change


def test_without_the_optimizer_it_says_so(tmp_path):
    class Plain(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    with pytest.raises(
        pl.utilities.exceptions.MisconfigurationException, match=r"returned SGD; .* needs a SharpnessAware\.$"
    ):
        trainer(tmp_path).fit(Plain())


class Logged(Module):
    """Logs its loss and its metrics, in a collection of shared states, and one that keeps all predictions."""

    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(5, average="micro")
        scores = {"macro": MulticlassAccuracy(5), "precision": MulticlassPrecision(5), "area": MulticlassAUROC(5)}
        self.scores = torchmetrics.MetricCollection(scores)
        self.logits, self.stepwise = [], []

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        logits = self.net(inputs)
        loss = mean_loss(logits, targets)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.accuracy(logits, targets)
        self.scores(logits, targets)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log_dict(self.scores, on_step=False, on_epoch=True)
        if not self.optimizers().perturbed:
            self.first_losses.append(loss.item())
            self.logits.append((logits.detach(), targets))
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        logged = self.trainer.callback_metrics
        self.stepwise.append((logged["loss_step"].item(), logged["accuracy_step"].item()))


def test_logs_and_metrics_are_those_of_the_first_pass(tmp_path):
    module = Logged()
    fitting = trainer(tmp_path)
    fitting.fit(module)
    logits, targets = (torch.cat(parts) for parts in zip(*module.logits, strict=True))
    logged = fitting.callback_metrics
    hits = [(z.argmax(1) == y).double().mean().item() for z, y in module.logits]
    losses, accuracies = zip(*module.stepwise, strict=True)
    assert list(losses) == pytest.approx(module.first_losses, abs=1e-6)
    assert list(accuracies) == pytest.approx(hits)
    assert logged["loss_epoch"].item() == pytest.approx(sum(module.first_losses) / len(module.first_losses))
    assert logged["accuracy_epoch"].item() == pytest.approx(sum(hits) / len(hits))
    for name, metric in (
        ("macro", MulticlassAccuracy(5)),
        ("precision", MulticlassPrecision(5)),
        ("area", MulticlassAUROC(5)),
    ):
        assert logged[name].item() == pytest.approx(metric(logits, targets).item()), name
    assert "log" not in vars(module)


def test_a_second_pass_of_the_user_is_kept(tmp_path):
    entered = []

    @contextlib.contextmanager
    def mine():
        entered.append(True)
        yield

    module = Module(second_pass=mine)
    fitting = trainer(tmp_path)
    fitting.fit(module)
    assert len(entered) == ROWS // BATCH
    assert fitting.optimizers[0].second_pass is mine


def test_a_resumed_fit_continues_bit_for_bit(tmp_path):
    """U travels in Lightning's optimizer states, and a checkpoint holds what a safe load allows."""
    whole, first, resumed = Module(), Module(), Module()
    trainer(tmp_path, epochs=2).fit(whole)
    saving = trainer(tmp_path, enable_checkpointing=True, callbacks=[pl.callbacks.ModelCheckpoint(tmp_path, "one")])
    saving.fit(first)
    continuing = trainer(tmp_path, epochs=2)
    continuing.fit(resumed, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert identical(resumed.net.state_dict(), whole.net.state_dict())
    assert not identical(first.net.state_dict(), whole.net.state_dict())
    assert continuing.optimizers[0].steps == 2 * ROWS // BATCH


class Manual(Module):
    """Accumulates two micro-batches by hand: the halves of each batch, or a batch and the next one."""

    def __init__(self, across=False, **options):
        super().__init__(size=BATCH if across else 2 * BATCH, batch_norm="clean", **options)
        self.across, self.waiting, self.automatic_optimization = across, [], False

    def _gradients(self, micro_batches):
        for inputs, targets in micro_batches:
            self.manual_backward(mean_loss(self.net(inputs), targets) / len(micro_batches))

    def training_step(self, batch, batch_idx):
        self.waiting += [batch] if self.across else list(zip(*(t.split(BATCH) for t in batch), strict=True))
        if len(self.waiting) < 2:
            return
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self._gradients(self.waiting)
        optimizer.first_step()
        self._gradients(self.waiting)
        optimizer.second_step()
        self.waiting = []

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass


def test_manual_accumulation_is_one_large_batch(tmp_path):
    """A step that the trainer counts once."""
    module = Manual()
    fitting = trainer(tmp_path)
    fitting.fit(module)
    assert close(module.net.state_dict(), plain(size=2 * BATCH)[0])
    assert fitting.global_step == fitting.optimizers[0].steps == ROWS // BATCH // 2


def test_without_the_callback_the_two_steps_are_right(tmp_path):
    """Lightning's wrapper has a copy of the optimizer's attributes; both know of the same steps."""
    module, net = Manual(), network()
    fitting, optimizer = trainer(tmp_path, callback=False), composed(net)
    fitting.fit(module)
    for inputs, targets in batches(size=2 * BATCH):

        def closure(inputs=inputs, targets=targets):
            mean_loss(net(inputs), targets).backward()

        optimizer.step(closure)
    assert close(module.net.state_dict(), net.state_dict())
    assert fitting.optimizers[0].steps == optimizer.steps
    assert fitting.global_step == 0  # which the callback mends


def test_manual_accumulation_over_two_batches_refreshes_once_a_step(tmp_path):
    """On the first micro-batch of a step."""
    module = Manual(across=True)
    fitting = trainer(tmp_path)
    fitting.fit(module)
    optimizer = fitting.optimizers[0]
    assert optimizer.probe.steps == optimizer.steps == ROWS // BATCH // 2
    assert close(module.net.state_dict(), plain(size=2 * BATCH, refreshed_on=BATCH)[0])


@pytest.mark.parametrize("fails", [False, True])
def test_manual_logs_are_those_of_the_first_pass(fails, tmp_path):
    """The module is quiet from the first step to the second, or to an error, which leaves the weights at theta."""

    class ManualLogged(Manual):
        def _gradients(self, micro_batches):
            super()._gradients(micro_batches)
            perturbed = self.optimizers().perturbed
            self.log("perturbed", float(perturbed), on_step=False, on_epoch=True)
            self.log("reached", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")
            if fails and perturbed:
                raise KeyError("lost")

    module = ManualLogged()
    before = copy.deepcopy(module.net.state_dict())
    fitting = trainer(tmp_path)
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        fitting.fit(module)
    assert "log" not in vars(module)
    if fails:
        assert identical(module.net.state_dict(), before)
    else:
        logged = {name: value.item() for name, value in fitting.callback_metrics.items()}
        assert logged == {"perturbed": 0.0, "reached": ROWS / BATCH / 2}


def test_manual_closure(tmp_path):
    class Closure(Manual):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()

            def closure():
                optimizer.zero_grad()
                self._gradients([batch])

            optimizer.step(closure)

    module = Closure(across=True)
    fitting = trainer(tmp_path)
    fitting.fit(module)
    assert identical(module.net.state_dict(), plain()[0])
    assert fitting.global_step == ROWS // BATCH


def test_two_optimizers_have_two_metrics(tmp_path):
    """As a GAN's: each U counts its own optimizer's steps; here the second one steps every other batch."""

    class Two(Manual):
        def __init__(self):
            super().__init__(across=True)
            self.other = network()

        def configure_optimizers(self):
            return composed(self.net), composed(self.other)

        def training_step(self, batch, batch_idx):
            for net, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
                if net is self.net or batch_idx % 2 == 0:

                    def closure(net=net, optimizer=optimizer):
                        optimizer.zero_grad()
                        self.manual_backward(mean_loss(net(batch[0]), batch[1]))

                    optimizer.step(closure)

    logger, module = pl.loggers.CSVLogger(tmp_path), Two()
    fitting = trainer(tmp_path, logger=logger)
    fitting.fit(module)
    assert [optimizer.probe.steps for optimizer in fitting.optimizers] == [8, 5]
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["llqr/objective"]] == [0, 2, 4, 6]
    assert [int(row["step"]) for row in rows if row["llqr_1/objective"]] == [0, 3, 7]
    assert identical(module.net.state_dict(), plain()[0])


def test_another_optimizer_may_stand_first(tmp_path):
    """Under manual optimization; the callback leaves it alone."""

    class Both(Manual):
        def __init__(self):
            super().__init__(across=True)
            self.other = network()

        def configure_optimizers(self):
            return torch.optim.Adam(self.other.parameters()), composed(self.net)

        def training_step(self, batch, batch_idx):
            adam, optimizer = self.optimizers()
            adam.zero_grad()
            self.manual_backward(mean_loss(self.other(batch[0]), batch[1]))
            adam.step()

            def closure():
                optimizer.zero_grad()
                self._gradients([batch])

            optimizer.step(closure)

    module = Both()
    trainer(tmp_path).fit(module)
    assert identical(module.net.state_dict(), plain()[0])


def test_a_manual_step_without_a_closure_is_refused(tmp_path):
    """Lightning's wrapper turns it into a closure that does nothing."""

    class Step(Manual):
        def training_step(self, batch, batch_idx):
            self._gradients([batch])
            self.optimizers().step()

    with pytest.raises(RuntimeError, match="adds to gradients that were there before"):
        trainer(tmp_path).fit(Step(across=True))


def test_accumulated_batches_are_refused(tmp_path):
    """Lightning adds the micro-batches before the step, which cannot evaluate them again."""
    with pytest.raises(
        RuntimeError, match=r"adds to gradients that were there before.*in Lightning, with accumulate_grad_batches=1"
    ):
        trainer(tmp_path, accumulate_grad_batches=2).fit(Module())


CLIPS = {
    "norm": lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.05) and None,
    "value": lambda parameters: nn.utils.clip_grad_value_(parameters, 0.05),
}


@pytest.mark.parametrize("algorithm", CLIPS)
def test_clipping_is_of_the_final_gradient(algorithm, tmp_path):
    """Lightning's own place is inside the closure, where it would clip each pass before the transport."""
    module = Module()
    trainer(tmp_path, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm).fit(module)
    weights, _ = plain(clip=CLIPS[algorithm])
    assert identical(module.net.state_dict(), weights)
    assert not identical(weights, plain()[0])
    assert "configure_gradient_clipping" not in vars(module)


def test_a_modules_own_clipping_sees_the_final_gradient(tmp_path):
    class Clipping(Module):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            CLIPS["value"](self.parameters())

    module = Clipping()
    trainer(tmp_path).fit(module)
    assert identical(module.net.state_dict(), plain(clip=CLIPS["value"])[0])


@pytest.mark.parametrize("algorithm", [None, "norm"])
def test_bfloat16_mixed(algorithm, tmp_path):
    """Clipped or not."""
    module = Module(network(torch.float32))
    options = {"gradient_clip_val": 0.05, "gradient_clip_algorithm": algorithm} if algorithm else {}
    trainer(tmp_path, precision="bf16-mixed", **options).fit(module)
    weights, losses = plain(autocast=True, dtype=torch.float32, clip=CLIPS.get(algorithm))
    assert identical(module.net.state_dict(), weights)
    assert module.first_losses == losses != plain(dtype=torch.float32)[1]


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_true_precisions(precision, tmp_path):
    module = Module(network(torch.float32))
    trainer(tmp_path, epochs=5, precision=precision).fit(module)
    assert falls(module.first_losses)


def float16():
    """Lightning replaces 16-mixed on a CPU by bf16-mixed, unless it is given the plugin."""
    return pl.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))


def test_automatic_float16_is_refused(tmp_path):
    """Lightning calls the closure itself, and then the step without one."""
    with pytest.raises(RuntimeError, match=r"write .*first_step\(scaler=scaler\) and second_step"):
        trainer(tmp_path, plugins=float16()).fit(Module(network(torch.float32)))


def test_manual_float16(tmp_path):
    class Scaled(Manual):
        def training_step(self, batch, batch_idx):
            optimizer, scaler = self.optimizers(), self.trainer.precision_plugin.scaler
            self.first_losses.append(mean_loss(self.net(batch[0]), batch[1]).item())
            optimizer.zero_grad()
            self._gradients([batch])
            optimizer.first_step(scaler=scaler)
            self._gradients([batch])
            optimizer.second_step()
            scaler.update()

    module = Scaled(across=True, net=network(torch.float32))
    fitting = trainer(tmp_path, epochs=5, plugins=float16())
    fitting.fit(module)
    assert falls(module.first_losses)
    assert fitting.optimizers[0].steps == fitting.global_step == 5 * ROWS // BATCH


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ROWS // BATCH)


def test_a_scheduler_steps_with_the_optimizer(tmp_path):
    class Scheduled(Module):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine(optimizer), "interval": "step"}}

    module = Scheduled()
    trainer(tmp_path).fit(module)
    assert identical(module.net.state_dict(), plain(schedule=cosine)[0])


def test_lightnings_other_tools_work_beside_it(tmp_path):
    """The learning-rate finder, averaged weights, early stopping, a schedule on a validated loss, and batch-norm."""

    class Validated(Module):
        lr = 0.1

        def __init__(self):
            layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
            super().__init__(nn.Sequential(*layers).double())

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.param_groups[0]["lr"] = self.lr
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "validation"}}

        def val_dataloader(self):
            return self.train_dataloader()

        def validation_step(self, batch, batch_idx):
            self.log("validation", mean_loss(self.net(batch[0]), batch[1]))

    module = Validated()
    others = [pl.callbacks.EarlyStopping("validation"), pl.callbacks.EMAWeightAveraging()]
    fitting = trainer(tmp_path, epochs=3, enable_checkpointing=True, callbacks=others)
    weights = copy.deepcopy(module.net.state_dict())
    found = pl.tuner.Tuner(fitting).lr_find(module, num_training=20)
    assert identical(module.net.state_dict(), weights)
    assert module.lr == found.suggestion() != 0.1
    fitting.fit(module)
    assert fitting.optimizers[0].steps == fitting.global_step == 3 * ROWS // BATCH
    assert fitting.callback_metrics["validation"] < 1.8


def test_a_compiled_module(tmp_path):
    module = Module()
    trainer(tmp_path).fit(torch.compile(module, backend="eager"))
    assert identical(module.net.state_dict(), plain()[0])


def test_the_metric_may_have_the_module_itself(tmp_path):
    class Forward(Logged):
        def forward(self, inputs):
            return self.net(inputs)

        def configure_optimizers(self):
            return composed(self)

    module = Forward()
    trainer(tmp_path).fit(module)
    assert identical(module.net.state_dict(), plain()[0])


def test_an_exception_leaves_the_module_as_it_was(tmp_path):
    class Failing(Logged):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2 and self.optimizers().perturbed:
                raise KeyError("lost")
            return super().training_step(batch, batch_idx)

    module = Failing()
    with pytest.raises(KeyError):
        trainer(tmp_path, gradient_clip_val=1.0).fit(module)
    assert not {"log", "log_dict", "configure_gradient_clipping"} & set(vars(module))
    assert module.accuracy.update_count == 3


def _one_of_two(kind, folder):
    """Trains as torchrun would start it, on this rank's half of each batch."""
    rank = os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(dist.get_rank())
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    os.environ.update(TORCHELASTIC_RUN_ID="test")
    module = kind()
    fitting = trainer(folder / rank, strategy="ddp", devices=2, use_distributed_sampler=False)
    fitting.fit(module)
    return {name: p.detach().clone() for name, p in module.net.named_parameters()}


@pytest.mark.parametrize(("kind", "size"), [(Module, 2 * BATCH), (Manual, 4 * BATCH)])
def test_two_processes_train_as_one(kind, size, two, tmp_path):
    """The sampler deals the rows out in turn, so the two halves are the batch of one process."""
    first, second = two(_one_of_two, kind, tmp_path)
    assert identical(first, second)
    assert close(first, plain(size=size)[0])
