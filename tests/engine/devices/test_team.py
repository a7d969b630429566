"""Two real processes that train one network: the same as one process on the whole minibatch."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from llqr_sam.data.streams import Share
from llqr_sam.engine.devices.team import ALONE, Team, is_loss, with_sync_batch_norm
from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.loop.losses import Diverged, LossLog
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.settings.run_settings import PrecisionSettings
from llqr_sam.engine.tasks.classification import Classification
from llqr_sam.methods.factory import build
from llqr_sam.methods.settings import MethodSettings
from llqr_sam.models.convolutional import SmallCNN
from tests.engine.conftest import METHODS

CPU = torch.device("cpu")
BATCH = 16


def _team():
    return Team(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def _network(team):
    torch.manual_seed(3)
    return with_sync_batch_norm(SmallCNN(10, width=4).double(), team, CPU)


def _data(team, step):
    random = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 1, 8, 8, generator=random, dtype=torch.float64)
    labels = torch.randint(0, 10, (BATCH,), generator=random)
    mine = Share(team.rank, team.size).of(BATCH)
    return images[mine], labels[mine]


def _train(name, accumulate=1, shard=False, steps=10):
    """State dict and losses after some steps."""
    team = _team()
    model = _network(team)
    changes = {"structure": "diagonal", "interval": 4} if shard else {}
    settings = MethodSettings.from_keys({"name": name} | METHODS[name] | changes)
    method = build(settings, model, process_group=team.group, shard=shard)
    average = partial(team.average_gradients, list(model.parameters()))
    clear = method.optimizer.zero_grad
    minibatch = GradientEvaluation(
        model, F.cross_entropy, clear, Stopwatch(CPU), CPU, accumulate=accumulate, average_gradients=average
    )
    losses = []
    for step in range(steps):
        if method.metric is not None and method.metric.refresh_due(step):
            method.metric.refresh(*_data(team, 100 + step), F.cross_entropy)
        minibatch.take(*_data(team, step))
        method.optimizer.step(minibatch)
        losses.append(float(team.mean(minibatch.loss)))
    return model.state_dict(), losses, method.optimizer.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shard"), [("sgdm", False), ("f_sam", False), ("llqr_sam", False), ("llqr_sam", True)]
)
def test_two_ranks_are_one_process(two, name, shard):
    """Weights and batch-norm's statistics to rounding (float64), and with the same bits on both ranks."""
    (first, losses, _), (second, losses_too, _) = two(_train, name, 1, shard)
    expected, expected_losses, _ = _train(name, 1, shard)
    assert losses == losses_too
    assert losses == pytest.approx(expected_losses, rel=1e-9)
    assert list(first) == list(expected)
    for key, value in expected.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value, rtol=0, atol=1e-9)


def test_accumulated_micro_batches_are_averaged_once(two):
    """Batch-norm sees the micro-batches of both ranks, so it is compared with itself over the ranks alone."""
    (first, *_), (second, *_) = two(_train, "sam", 2)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_first_rank_has_the_state_of_a_sharded_metric_whole(two):
    (*_, state), (*_, share) = two(_train, "llqr_sam", 1, True)
    *_, expected = _train("llqr_sam", 1, True)
    mine, others, whole = (
        {(n, key): x for n, entry in s["state"].items() for key, x in entry.items() if "factors" in key}
        for s in (state, share, expected)
    )
    assert mine.keys() == whole.keys() > others.keys()
    for name, factor in whole.items():
        torch.testing.assert_close(mine[name], factor, rtol=0, atol=1e-9)


def _batch_norm(shape, momentum):
    """Two calls, one of them frozen: outputs, gradients and buffers."""
    team = _team()
    layer = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1], momentum=momentum).double()
    net = with_sync_batch_norm(nn.Sequential(layer), team, CPU)
    random = torch.Generator().manual_seed(0)
    whole = 5 + 2 * torch.randn(shape, generator=random, dtype=torch.float64)
    target = torch.randn(shape, generator=random, dtype=torch.float64)
    mine = Share(team.rank, team.size).of(shape[0])
    inputs = whole[mine].clone().requires_grad_()
    for _ in range(2):
        outputs = net(inputs)
    ((outputs - target[mine]) ** 2).sum().backward()
    parameters = [team.sum(p.grad) for p in net.parameters()]
    return outputs.detach(), inputs.grad, parameters, net.state_dict(), net.eval()(inputs).detach()


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4, 5)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_the_whole_minibatchs(two, shape, momentum):
    outputs, gradient, parameters, state, inference = _batch_norm(shape, momentum)
    ranks = two(_batch_norm, shape, momentum)
    for position, expected in ((0, outputs), (1, gradient), (4, inference)):
        torch.testing.assert_close(torch.cat([rank[position] for rank in ranks]), expected)
    for rank in ranks:
        torch.testing.assert_close(rank[2], parameters)
        torch.testing.assert_close(rank[3], state)


def _agree():
    team = _team()
    rank = team.rank
    box = [torch.full((2, 2), float(rank + 1)).to(memory_format=torch.contiguous_format)]
    parameter = nn.Parameter(torch.zeros(1, 2, 2, 2).to(memory_format=torch.channels_last))
    parameter.grad = torch.full_like(parameter, float(rank))
    team.average_gradients([parameter, nn.Parameter(torch.zeros(1))])
    return (
        team.max_over_ranks(rank, 1 - rank, 0),
        team.broadcast(f"from {rank}"),
        team.gather(rank),
        team.sum(box[0]).tolist(),
        box[0].tolist(),
        parameter.grad.flatten().tolist(),
    )


def test_what_ranks_tell_each_other(two):
    first, second = two(_agree)
    assert first[:4] == ((1, 1, 0), "from 0", [0, 1], [[3.0, 3.0], [3.0, 3.0]])
    assert second[:4] == ((1, 1, 0), "from 0", [], [[3.0, 3.0], [3.0, 3.0]])
    assert first[4] == [[1.0, 1.0], [1.0, 1.0]]
    assert first[5] == second[5] == [0.5] * 8


def test_one_process_tells_itself():
    tensor = torch.ones(2)
    assert ALONE.sum(tensor) is ALONE.mean(tensor) is ALONE.broadcast(tensor) is tensor
    assert (ALONE.max_over_ranks(3, 0), ALONE.gather(1), ALONE.is_first) == ((3, 0), [1], True)


def _evaluate():
    team = _team()
    images, labels = _data(team, 1)
    batches = [(images, labels)] if team.is_first else [(images[:3], labels[:3]), (images[3:], labels[3:])]
    task = Classification(SimpleNamespace(precision=PrecisionSettings()))
    scores = task.evaluate(_network(team), SimpleNamespace(test=batches), 1, CPU, team)
    return scores.top1, scores.test_loss


def test_evaluation_counts_every_sample_once(two):
    expected = _evaluate()
    for found in two(_evaluate):
        assert found == pytest.approx(expected, rel=1e-6)  # losses are float32 whatever the network is


def _nan_on_one_rank():
    team = _team()
    log = LossLog(CPU, team=team)
    log.add(0, torch.tensor(float(team.rank)))
    mean = log.mean
    try:
        log.add(1, torch.tensor(float("nan") if team.rank else 1.0))
    except Diverged as error:
        return mean, str(error)


def test_a_nan_on_one_rank_is_everybodys(two):
    assert two(_nan_on_one_rank) == [(0.5, "the training loss is nan at step 1")] * 2


def test_errors_of_others_are_not_losses():
    assert not is_loss(RuntimeError("CUDA out of memory"))
    assert is_loss(RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
