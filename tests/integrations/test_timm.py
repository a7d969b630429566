"""timm's training loop, with the scaler in place of its own, trains as a closure with the accumulation inside."""

from __future__ import annotations

import contextlib
import copy
import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from llqr_sam import LLQR, SharpnessAware
from llqr_sam.torchvision_compat import ensure_torchvision
from tests.methods.training import identical

pytestmark = pytest.mark.integrations
ensure_torchvision()  # timm imports torchvision, whose wheel may not match a CPU build of torch
timm = pytest.importorskip("timm")
optim, scheduling, utils = (pytest.importorskip(f"timm.{name}") for name in ("optim", "scheduler", "utils"))
task = pytest.importorskip("timm.task")

from llqr_sam.integrations.timm import SharpnessAwareScaler  # noqa: E402

BATCH, BATCHES = 4, 3  # the last update has one micro-batch
BFLOAT16 = functools.partial(torch.autocast, "cpu", torch.bfloat16)


def network(name="test_vit"):
    torch.manual_seed(7)
    options = {"img_size": 32, "patch_size": 16, "depth": 2} if "vit" in name else {}
    return timm.create_model(name, num_classes=5, **options)


def batches():
    generator = torch.Generator().manual_seed(9)
    draws = torch.randn(BATCHES, BATCH, 3, 32, 32, generator=generator)
    return list(zip(draws, torch.randint(0, 5, (BATCHES, BATCH), generator=generator), strict=True))


def composed(model, **options):
    group = dist.group.WORLD if dist.is_initialized() else None
    metric = LLQR(model, structure="diag_kfac", inner_steps=2, interval=2, ema=0.5, process_group=group)
    base = optim.create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05)
    return SharpnessAware(base, rho=0.1, probe=metric, transport=metric, **options)


def cosine(optimizer):
    options = {"sched": "cosine", "num_epochs": 2, "warmup_epochs": 1, "warmup_lr": 1e-3, "step_on_epochs": False}
    return scheduling.create_scheduler_v2(optimizer, **options, updates_per_epoch=3)[0]


def train_one_epoch(
    model,
    loader,
    optimizer,
    loss_fn,
    loss_scaler,
    accum_steps=1,
    amp_autocast=contextlib.nullcontext,
    clip_grad=None,
    clip_mode="norm",
    lr_scheduler=None,
):
    """After timm's train.py: what is there of accumulation, precision, clipping, no_sync and schedules."""
    model.train()
    has_no_sync = hasattr(model, "no_sync")
    last_accum_steps = len(loader) % accum_steps
    num_updates, last_batch_idx = 0, len(loader) - 1
    last_batch_idx_to_accum = len(loader) - last_accum_steps
    losses = []
    optimizer.zero_grad()
    for batch_idx, (input, target) in enumerate(loader):
        last_batch = batch_idx == last_batch_idx
        need_update = last_batch or (batch_idx + 1) % accum_steps == 0
        if batch_idx >= last_batch_idx_to_accum:
            accum_steps = last_accum_steps

        def _forward(input=input, target=target, accum_steps=accum_steps):
            with amp_autocast():
                output = model(input)
                loss = loss_fn(output, target)
            if accum_steps > 1:
                loss /= accum_steps
            return loss

        def _backward(_loss, need_update=need_update):
            loss_scaler(
                _loss,
                optimizer,
                clip_grad=clip_grad,
                clip_mode=clip_mode,
                parameters=timm.models.model_parameters(model, exclude_head="agc" in clip_mode),
                create_graph=False,
                need_update=need_update,
            )

        with model.no_sync() if has_no_sync and not need_update else contextlib.nullcontext():
            loss = _forward()
            _backward(loss)
        losses.append(loss.item() * accum_steps)
        if not need_update:
            continue
        num_updates += 1
        optimizer.zero_grad()
        if lr_scheduler is not None:
            lr_scheduler.step_update(num_updates=num_updates)
    return losses


def plain(
    model,
    optimizer,
    accum_steps=1,
    amp_autocast=contextlib.nullcontext,
    clip=None,
    lr_scheduler=None,
    scaler=None,
    loss_fn=nn.CrossEntropyLoss(),  # noqa: B008
):
    """The same epoch with ``step(closure)``; returns the losses of the micro-batches in the first passes.

    U is refreshed where the scaler does it: a refresh uses batch-norm's statistics, which the first pass has recorded.
    """
    model.train()
    seen, losses = batches(), []
    if clip is not None:
        optimizer.base.register_step_pre_hook(lambda *_: clip(model))
    for update, start in enumerate(range(0, len(seen), accum_steps)):
        window = seen[start : start + accum_steps]
        evaluated = []

        def closure(window=window, evaluated=evaluated):
            optimizer.zero_grad()
            for inputs, targets in window:
                with amp_autocast():
                    loss = loss_fn(model(inputs), targets)
                evaluated.append(loss.item())
                loss = loss / len(window)
                (scaler.scale(loss) if scaler else loss).backward()
            if not optimizer.perturbed:
                optimizer.probe.refresh_if_due(*window[0], loss_fn)

        optimizer.step(closure, **({"scaler": scaler} if scaler else {}))
        if scaler:
            scaler.update()
        losses += evaluated[: len(window)]
        if lr_scheduler is not None:
            lr_scheduler.step_update(num_updates=update + 1)
    return losses


@pytest.mark.parametrize("amp_autocast", [contextlib.nullcontext, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "options"), [("test_vit", {}), ("test_resnet", {"batch_norm": "clean"})])
@pytest.mark.parametrize("accum_steps", [1, 2])
def test_an_epoch_is_that_of_a_closure(accum_steps, name, options, amp_autocast):
    """Bit for bit, batch-norm's statistics and the loop's losses too, and with timm's schedule."""
    ours, theirs, loss_fn = network(name), network(name), nn.CrossEntropyLoss()
    optimizer, reference = composed(ours, **options), composed(theirs, **options)
    scaler = SharpnessAwareScaler(ours, loss_fn)
    shared = {"accum_steps": accum_steps, "amp_autocast": amp_autocast}
    losses = train_one_epoch(ours, batches(), optimizer, loss_fn, scaler, lr_scheduler=cosine(optimizer), **shared)
    assert losses == plain(theirs, reference, lr_scheduler=cosine(reference), **shared)
    assert identical(ours.state_dict(), theirs.state_dict())
    assert optimizer.steps == optimizer.probe.steps == -(-BATCHES // accum_steps)
    assert optimizer.param_groups[0]["lr"] == reference.param_groups[0]["lr"] != 1e-2


CLIPS = {
    "norm": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1) and None,
    "value": lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.1),
    "agc": lambda model: utils.adaptive_clip_grad(list(model.parameters())[:-2], 0.1),
}


@pytest.mark.parametrize("mode", CLIPS)
def test_clipping_is_of_the_final_gradient(mode):
    ours, theirs, loss_fn = network(), network(), nn.CrossEntropyLoss()
    optimizer, reference = composed(ours), composed(theirs)
    scaler = SharpnessAwareScaler(ours, loss_fn)
    train_one_epoch(ours, batches(), optimizer, loss_fn, scaler, accum_steps=2, clip_grad=0.1, clip_mode=mode)
    plain(theirs, reference, accum_steps=2, clip=CLIPS[mode])
    assert identical(ours.state_dict(), theirs.state_dict())
    assert not optimizer.base._optimizer_step_pre_hooks


def test_float16s_scale_is_used_and_saved():
    """As timm saves it; the first scale overflows, and that update is skipped."""
    ours, theirs, loss_fn = network(), network(), nn.CrossEntropyLoss()
    optimizer, reference = composed(ours), composed(theirs)
    grad_scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-110) for _ in range(2)]
    scaler = SharpnessAwareScaler(ours, loss_fn, grad_scalers[0])
    train_one_epoch(ours, batches(), optimizer, loss_fn, scaler)
    plain(theirs, reference, scaler=grad_scalers[1])
    assert identical(ours.state_dict(), theirs.state_dict())
    assert 0 < optimizer.steps == reference.steps < BATCHES
    assert scaler.state_dict() == grad_scalers[1].state_dict()
    assert scaler.state_dict_key == utils.NativeScaler.state_dict_key
    other = SharpnessAwareScaler(network(), loss_fn, torch.amp.GradScaler("cpu"))
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()


def test_training_resumes_from_timms_checkpoint(tmp_path):
    """Two epochs are one epoch, ``CheckpointSaver``, ``resume_checkpoint`` and another epoch."""
    whole, half, resumed, loss_fn = network(), network(), network(), nn.CrossEntropyLoss()
    optimizers = [composed(model) for model in (whole, half, resumed)]
    scalers = [SharpnessAwareScaler(model, loss_fn) for model in (whole, half, resumed)]

    def epoch(i, model):
        train_one_epoch(model, batches(), optimizers[i], loss_fn, scalers[i])

    epoch(0, whole)
    epoch(0, whole)
    epoch(1, half)
    saver = utils.CheckpointSaver(half, optimizers[1], amp_scaler=scalers[1], checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    timm.models.resume_checkpoint(resumed, str(tmp_path / "last.pth.tar"), optimizers[2], scalers[2])
    epoch(2, resumed)
    assert identical(resumed.state_dict(), whole.state_dict())


def test_timms_tasks():
    """Newer train.py calls a task, which holds the model and the loss."""
    ours, theirs, loss_fn = network(), network(), nn.CrossEntropyLoss()
    optimizer = composed(ours)
    scaler, training = SharpnessAwareScaler(ours, loss_fn), task.ClassificationTask(ours, loss_fn, verbose=False)
    training.train()
    for inputs, targets in batches():
        scaler(training(inputs, targets)["loss"], optimizer)
        optimizer.zero_grad()
    plain(theirs, composed(theirs))
    assert identical(ours.state_dict(), theirs.state_dict())


def test_evaluation_is_not_remembered():
    model, loss_fn = network(), nn.CrossEntropyLoss()
    optimizer = composed(model)
    scaler = SharpnessAwareScaler(model, loss_fn)
    model.eval()
    with torch.no_grad():
        loss_fn(model(batches()[0][0]), batches()[0][1])
    expected = copy.deepcopy(model)
    train_one_epoch(model, batches(), optimizer, loss_fn, scaler)
    plain(expected, composed(expected))
    assert identical(model.state_dict(), expected.state_dict())


class Masked(nn.Module):
    """A model that is called with a keyword."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.layer = nn.Linear(6, 5)

    def forward(self, x, *, mask):
        return self.layer(x * mask)


@pytest.mark.parametrize("learned", [False, True])
def test_keywords_of_the_model(learned):
    """They belong to both passes; a refresh of U has none."""
    x, mask, targets = torch.randn(4, 6), torch.randint(0, 2, (4, 6)), torch.randint(0, 5, (4,))
    model, other, loss_fn = Masked(), Masked(), nn.CrossEntropyLoss()
    parts = {"probe": LLQR(model)} if learned else {}
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, **parts)
    scaler = SharpnessAwareScaler(model, loss_fn)
    with pytest.raises(ValueError, match="called with keywords") if learned else contextlib.nullcontext():
        scaler(loss_fn(model(x, mask=mask), targets), optimizer)
        expected = SharpnessAware(torch.optim.SGD(other.parameters(), lr=0.1), rho=0.5)
        expected.step(lambda: loss_fn(other(x, mask=mask), targets).backward())
        assert identical(model.state_dict(), other.state_dict())


def test_a_closed_scaler_watches_no_more():
    model, loss_fn = network(), nn.CrossEntropyLoss()
    SharpnessAwareScaler(model, loss_fn).close()
    assert not model._forward_pre_hooks
    assert not loss_fn._forward_hooks


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_term_that_the_loop_adds_is_refused(accumulated):
    """The second pass would leave it out."""
    model, loss_fn = network(), nn.CrossEntropyLoss()
    scaler, (inputs, targets) = SharpnessAwareScaler(model, loss_fn), batches()[0]
    loss = loss_fn(model(inputs), targets) / accumulated + 1e-4 * sum(p.square().sum() for p in model.parameters())
    with pytest.raises(RuntimeError, match="the loop adds a term that the second pass would leave out"):
        scaler(loss, composed(model), need_update=accumulated == 1)


def test_what_it_refuses():
    model, loss_fn = network(), nn.CrossEntropyLoss()
    optimizer, (inputs, targets) = composed(model), batches()[0]
    scaler = SharpnessAwareScaler(model, loss_fn)
    loss = loss_fn(model(inputs), targets)
    with pytest.raises(ValueError, match=r"^optimizer=AdamW is not a SharpnessAware; wrap it in one\.$"):
        scaler(loss, optimizer.base)
    with pytest.raises(ValueError, match="^create_graph=True is for a base that needs second derivatives"):
        scaler(loss, optimizer, create_graph=True)
    with pytest.raises(RuntimeError, match="^the loss does not come from one call of the watched model and loss_fn"):
        scaler(nn.functional.cross_entropy(model(inputs), targets), optimizer)


def test_batch_norms_default_is_refused():
    """The first pass has recorded when the scaler is called; the sentence is the core's."""
    model, loss_fn = network("test_resnet"), nn.CrossEntropyLoss()
    scaler = SharpnessAwareScaler(model, loss_fn)
    with pytest.raises(ValueError, match=r'batch_norm="clean"'):
        train_one_epoch(model, batches(), composed(model), loss_fn, scaler)


def test_a_failing_second_pass_leaves_the_weights():
    class Failing(nn.CrossEntropyLoss):
        def forward(self, outputs, targets):
            if optimizer.perturbed:
                raise KeyError("lost")
            return super().forward(outputs, targets)

    model, loss_fn = network(), Failing()
    optimizer, before = composed(model), copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError):
        train_one_epoch(model, batches(), optimizer, loss_fn, SharpnessAwareScaler(model, loss_fn))
    assert identical(model.state_dict(), before)


def _distributed():
    """This rank's half of each micro-batch; the refusal of the bare network, and the weights."""
    model, loss_fn = network().double(), nn.CrossEntropyLoss()
    try:
        SharpnessAwareScaler(model, loss_fn)
        refused = ""
    except ValueError as error:
        refused = str(error)
    optimizer, wrapped = composed(model), DistributedDataParallel(model)
    halves = [(x.double().chunk(2)[dist.get_rank()], y.chunk(2)[dist.get_rank()]) for x, y in batches()]
    train_one_epoch(wrapped, halves, optimizer, loss_fn, SharpnessAwareScaler(wrapped, loss_fn), accum_steps=2)
    return refused, {name: p.detach().clone() for name, p in model.named_parameters()}


def test_two_processes_train_as_one(two):
    (refused, first), (_, second) = two(_distributed)
    assert refused.endswith("averages no gradients over processes; give the DistributedDataParallel.")
    assert identical(first, second)
    model, loss_fn = network().double(), nn.CrossEntropyLoss()
    halves = [(x.double(), y) for x, y in batches()]
    scaler = SharpnessAwareScaler(model, loss_fn)
    train_one_epoch(model, halves, composed(model), loss_fn, scaler, accum_steps=2)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(first[name], parameter.detach(), rtol=0, atol=1e-8)
