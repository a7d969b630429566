"""``AcceleratedStep`` is the plain loop with ``optimizer.step(closure)``, whatever accelerate does around it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from llqr_sam import LLQR, Friendly, SharpnessAware
from llqr_sam.methods.distributed import unwrapped

pytestmark = pytest.mark.integrations
accelerate = pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState, GradientState  # noqa: E402

from llqr_sam.integrations.accelerate import AcceleratedStep  # noqa: E402
from tests.integrations.ranks import launched  # noqa: E402

MAX_NORM = 0.05  # clips every step


@pytest.fixture(autouse=True)
def _no_accelerator_before():
    """accelerate's settings are those of the process: each test makes its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _network(dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)
    return nn.Sequential(*layers).to(dtype)


def _batches(count=6, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 6, generator=draw).to(dtype), torch.randint(3, (4,), generator=draw)) for _ in range(count)]


def _sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def _llqr_sam(net, **options):
    metric = LLQR(net, structure="kfac", interval=2, inner_steps=3)
    return SharpnessAware(_sgd(net), rho=0.1, probe=metric, transport=metric, **options)


METHODS = {
    "sam": lambda net: SharpnessAware(_sgd(net), rho=0.1),
    "clean_sam": lambda net: SharpnessAware(_sgd(net), rho=0.1, batch_norm="clean"),
    "f_sam": lambda net: SharpnessAware(_sgd(net), rho=0.1, direction=Friendly()),
    "llqr_sam": _llqr_sam,
}


def _large_loss(outputs, targets):
    return 8 * cross_entropy(outputs, targets)


def _schedule(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)


def _accelerated(net, method, batches, window, scaler=None, loss_fn=cross_entropy, **settings):
    """Trains with accelerate; returns the step, and the loss of each window."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=window, **settings)
    accelerator.scaler = scaler
    model = accelerator.prepare(net)
    optimizer = method(net)
    optimizer, schedule = accelerator.prepare(optimizer, _schedule(optimizer))
    step = AcceleratedStep(accelerator, model, optimizer, lambda x, y: loss_fn(model(x), y), max_norm=MAX_NORM)
    metric, losses = optimizer.optimizer.transport, []
    for number, (x, y) in enumerate(batches):
        torch.manual_seed(number // window)
        with accelerator.accumulate(model):
            if isinstance(metric, LLQR) and accelerator.sync_gradients:
                metric.refresh_if_due(x, y, cross_entropy)
            losses.append(step(x, y))
            schedule.step()
    assert all((loss is None) == ((number + 1) % window > 0) for number, loss in enumerate(losses))
    return step, [float(loss) for loss in losses if loss is not None]


def _plain(net, method, batches, window, scaler=None, loss_fn=cross_entropy):
    """The same by hand; returns the optimizer, the loss of each window, and the last norm."""
    optimizer, norms, losses = method(net), [], []
    schedule = _schedule(optimizer)
    optimizer.base.register_step_pre_hook(lambda *_: norms.append(clip_grad_norm_(net.parameters(), MAX_NORM)))
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for number in range(len(batches) // window):
        micro_batches = batches[number * window : (number + 1) * window]
        torch.manual_seed(number)
        if isinstance(optimizer.transport, LLQR):
            optimizer.transport.refresh_if_due(*micro_batches[-1], cross_entropy)

        def closure(micro_batches=micro_batches):
            optimizer.zero_grad()
            total = 0.0
            for x, y in micro_batches:
                loss = loss_fn(net(x), y)
                scaler.scale(loss / window).backward()
                total += loss.detach()
            return total / window

        steps = optimizer.steps
        losses.append(float(optimizer.step(closure, scaler=scaler)))
        scaler.update()
        if optimizer.steps > steps:
            schedule.step()
    return optimizer, losses, norms[-1]


def _same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def _rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_plain_loop(method, window):
    """With batch-norm, dropout, clipping and a schedule: every batch counts, once."""
    ours, theirs = _network(), _network()
    step, losses = _accelerated(ours, METHODS[method], _batches(), window)
    optimizer, expected, norm = _plain(theirs, METHODS[method], _batches(), window)
    assert _same_weights(ours, theirs)
    assert losses == pytest.approx(expected)
    assert step.norm == norm > MAX_NORM
    assert _rates(step.optimizer) == _rates(optimizer)


def test_bfloat16():
    ours, theirs, batches = _network(torch.float32), _network(torch.float32), _batches(dtype=torch.float32)

    class Autocast(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    _, losses = _accelerated(ours, METHODS["sam"], batches, 3, mixed_precision="bf16")
    _, expected, _ = _plain(Autocast(*theirs), METHODS["sam"], batches, 3)
    assert _same_weights(ours, theirs)
    assert losses == pytest.approx(expected)


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127])
def test_loss_scaling(scale):
    """An overflow skips the step and the schedule. accelerate makes a scaler on a GPU alone, so it is given one."""
    ours, theirs, batches = _network(torch.float32), _network(torch.float32), _batches(12, torch.float32)
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for _ in range(2)]
    step, losses = _accelerated(ours, METHODS["sam"], batches, 2, scalers[0], _large_loss)
    optimizer, expected, _ = _plain(theirs, METHODS["sam"], batches, 2, scalers[1], _large_loss)
    assert _same_weights(ours, theirs)
    assert losses == pytest.approx(expected)
    assert scalers[0].get_scale() == scalers[1].get_scale()
    assert step.optimizer.optimizer.steps == optimizer.steps
    assert (optimizer.steps < 6) == (scale > 2.0**100)
    assert _rates(step.optimizer) == _rates(optimizer)


def test_a_last_window_of_fewer_micro_batches():
    """accelerate ends a window with its loader, and divides by the number of accumulation steps all the same."""
    ours, theirs, batches = _network(), _network(), _batches(5)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    data = torch.utils.data.TensorDataset(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
    model, optimizer, loader = accelerator.prepare(
        ours, METHODS["sam"](ours), torch.utils.data.DataLoader(data, batch_size=4)
    )
    step = AcceleratedStep(accelerator, model, optimizer, lambda x, y: cross_entropy(model(x), y))
    losses = []
    for number, (x, y) in enumerate(loader):
        torch.manual_seed(number // 4)
        with accelerator.accumulate(model):
            losses.append(step(x, y))
    assert [loss is None for loss in losses] == [True, True, True, False, False]

    plain = METHODS["sam"](theirs)
    for number, window in enumerate((batches[:4], batches[4:])):
        torch.manual_seed(number)

        def closure(window=window):
            plain.zero_grad()
            for x, y in window:
                (cross_entropy(theirs(x), y) / 4).backward()

        plain.step(closure)
    assert _same_weights(ours, theirs)


def test_resume_is_bitwise(tmp_path):
    """``save_state`` and ``load_state``, with dropout, momentum and a learned metric."""

    def train(steps, load=None, save=None):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        net = _network()
        optimizer = _llqr_sam(net)
        model, optimizer, schedule = accelerator.prepare(net, optimizer, _schedule(optimizer))
        step = AcceleratedStep(accelerator, model, optimizer, lambda x, y: cross_entropy(model(x), y))
        if load is not None:
            accelerator.load_state(str(load))
        for number in steps:
            for x, y in _batches(12)[2 * number : 2 * number + 2]:
                with accelerator.accumulate(model):
                    if accelerator.sync_gradients:
                        optimizer.optimizer.transport.refresh_if_due(x, y, cross_entropy)
                    step(x, y)
                    schedule.step()
        if save is not None:
            accelerator.save_state(str(save))
        return net

    whole = train(range(6))
    train(range(3), save=tmp_path)
    assert _same_weights(whole, train(range(3, 6), load=tmp_path))


def test_a_refresh_of_a_prepared_network_has_its_own_precision():
    """Accelerate puts a forward in bfloat16 on the network, which a refresh looks through."""
    (x, y), *_ = _batches(1, torch.float32)
    learned = []
    for prepared in (False, True):
        net = _network(torch.float32)
        model = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(net) if prepared else net
        metric = LLQR(model, structure="kfac", inner_steps=3, ema=0.0)
        assert not metric.refresh(x, y, cross_entropy).unreplayed
        learned.append({n: f.clone() for fs in metric.named_factors().values() for n, f in fs.items()})
    assert all(torch.equal(learned[0][n], learned[1][n]) for n in learned[0])
    assert ("forward" in vars(net)) == prepared
    with torch.no_grad():
        assert not torch.equal(model(x), type(net).forward(net, x))


def test_keyword_batches():
    """As tokenised text comes: ``step(**batch)``."""
    ours, theirs, batches = _network(), _network(), _batches(2)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(ours, METHODS["sam"](ours))

    def loss_of(inputs, labels):
        return cross_entropy(model(inputs), labels)

    step = AcceleratedStep(accelerator, model, optimizer, loss_of, max_norm=MAX_NORM)
    torch.manual_seed(0)
    for x, y in batches:
        with accelerator.accumulate(model):
            step(inputs=x, labels=y)
    _plain(theirs, METHODS["sam"], batches, 2)
    assert _same_weights(ours, theirs)


def _step_without_the_adapter():
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator, net = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2), _network()
    model, optimizer = accelerator.prepare(net, METHODS["sam"](net))
    for x, y in _batches(2):
        with accelerator.accumulate(model):
            optimizer.step(lambda x=x, y=y: accelerator.backward(cross_entropy(model(x), y)))


def test_wrong_uses_are_refused():
    accelerator, net = accelerate.Accelerator(cpu=True), _network()
    model, optimizer = accelerator.prepare(net, _sgd(net))
    with pytest.raises(TypeError, match="optimizer=SGD is not a SharpnessAware; wrap it in one"):
        AcceleratedStep(accelerator, model, optimizer, cross_entropy)
    optimizer = accelerator.prepare(METHODS["sam"](net))
    for max_norm in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"max_norm={max_norm} must be > 0"):
            AcceleratedStep(accelerator, model, optimizer, cross_entropy, max_norm=max_norm)
    with pytest.raises(RuntimeError, match="use llqr_sam.integrations.accelerate, which steps over all of them"):
        _step_without_the_adapter()
    accelerator.state.distributed_type = accelerate.DistributedType.FSDP
    with pytest.raises(ValueError, match="FSDP shards or steps the parameters itself"):
        AcceleratedStep(accelerator, model, optimizer, cross_entropy)


def _trained_on_ranks(metric_of, window):
    """Trains on this rank's half of each batch, or on whole batches in one process; returns the weights."""
    if dist.is_initialized():
        launched()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=window)
    torch.manual_seed(0)
    model = accelerator.prepare(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double())
    metric = LLQR(metric_of(model), structure="kfac", interval=2, inner_steps=3)
    optimizer = accelerator.prepare(SharpnessAware(_sgd(model), rho=0.1, probe=metric, transport=metric))
    step = AcceleratedStep(accelerator, model, optimizer, lambda x, y: cross_entropy(model(x), y), max_norm=MAX_NORM)
    for x, y in _batches(6):
        x, y = (t.chunk(accelerator.num_processes)[accelerator.process_index] for t in (x, y))
        with accelerator.accumulate(model):
            if accelerator.sync_gradients:
                metric.refresh_if_due(x, y, cross_entropy)
            step(x, y)
    return {name.removeprefix("module."): x for name, x in model.state_dict().items()}


def test_two_processes_are_one_on_the_whole_batches(two):
    """With accumulation; U is learned over both, since LLQR is given the prepared model."""
    one, other = two(_trained_on_ranks, _itself, 3)
    assert all(torch.equal(one[name], other[name]) for name in one)
    torch.testing.assert_close(one, _trained_on_ranks(_itself, 3), rtol=1e-10, atol=1e-12)


def test_a_metric_of_one_process_is_refused(two):
    with pytest.raises(AssertionError, match="would learn a U of its own"):
        two(_trained_on_ranks, unwrapped, 1)


def _itself(model):
    return model
