"""Several processes: the same result as one process on all their data, and the same bits on every rank."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

from llqr_sam import LLQR, Friendly, SharpnessAware
from llqr_sam.methods.distributed import Ranks, ranks_of, unwrapped
from tests.methods.networks import TinyTransformer, mean_loss
from tests.methods.workers import Workers

ROWS = 16
STRUCTURES = ["diagonal", "kfac", "ekfac", "diag_kfac"]
DIVERGENCES = [("ngd", "sum"), ("ngd", "mean"), ("newton", "mean")]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    workers = Workers(4, tmp_path_factory.mktemp("four"))
    yield workers
    workers.close()


def _network(kind, dtype=torch.float64):
    """The same weights in every process."""
    torch.manual_seed(11)
    if kind == "transformer":
        return TinyTransformer().to(dtype)
    layers = [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.Linear(8, 5)]
    return nn.Sequential(*layers).to(dtype)


def _data(kind, step=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    if kind == "transformer":
        shape, draw = (ROWS, 6), torch.randint(0, 7, (ROWS, 6), generator=generator)
    else:
        shape, draw = (ROWS,), torch.randn(ROWS, 6, generator=generator, dtype=dtype)
    return draw, torch.randint(0, 5, shape, generator=generator)


def _mine(*tensors):
    """This rank's rows; all of them in the parent."""
    if not dist.is_initialized():
        return tensors
    return tuple(t.chunk(dist.get_world_size())[dist.get_rank()] for t in tensors)


def _sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def _closure(net, optimizer, x, y, scaler=None, factor=1.0):
    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        (scaler.scale(loss * factor) if scaler else loss).backward()
        return loss

    return closure


def _weights(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def _train(method, structure="diagonal", shard=False, per_worker=False, steps=4):
    """Weights after some steps, each on the ranks' share of one batch; one process takes the whole batch."""
    net = _network("mlp")
    model = DistributedDataParallel(net) if dist.is_initialized() else net
    options = {"first_pass": model.no_sync} if per_worker else {}
    if method == "llqr_sam":
        metric = LLQR(model, structure=structure, inner_steps=5, interval=2, ema=0.5, shard=shard)
        optimizer = SharpnessAware(_sgd(model), rho=0.1, probe=metric, transport=metric, model=model)
    else:
        direction = Friendly() if method == "f_sam" else None
        optimizer = SharpnessAware(_sgd(model), rho=0.1, direction=direction, model=model, **options)
    for step in range(steps):
        x, y = _mine(*_data("mlp", step))
        if method == "llqr_sam":
            metric.refresh_if_due(x, y, mean_loss)
        optimizer.step(_closure(model, optimizer, x, y))
    return _weights(net)


def _close(actual, expected, tolerance=1e-10):
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=tolerance)


def _identical(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sam", "f_sam", "llqr_sam"])
def test_global_perturbation_is_one_process_on_the_whole_batch(two, method):
    """Both passes synchronise, so nothing tells two workers from one; every rank has the same bits."""
    first, second = two(_train, method)
    assert _identical(first, second)
    _close(first, _train(method))


def test_perturbation_per_worker_is_m_sharpness(two):
    """g = mean over workers of g_w(theta + rho g_w / |g_w|) (Foret et al. 2021, section 4.1)."""
    first, second = two(_train, "sam", "diagonal", False, True, 1)
    assert _identical(first, second)
    net = _network("mlp")
    theta, x, y = _weights(net), *_data("mlp")
    update = {name: torch.zeros_like(p) for name, p in theta.items()}
    for rows in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS)):
        net.load_state_dict(theta)
        probed = torch.autograd.grad(mean_loss(net(x[rows]), y[rows]), list(net.parameters()))
        size = torch.stack([g.norm() for g in probed]).norm()
        net.load_state_dict({name: p + 0.1 * g / size for (name, p), g in zip(theta.items(), probed, strict=True)})
        for name, g in zip(theta, torch.autograd.grad(mean_loss(net(x[rows]), y[rows]), net.parameters()), strict=True):
            update[name] += g / 2
    _close(first, {name: p - 0.1 * (update[name] + 5e-4 * p) for name, p in theta.items()})


def test_weights_stay_equal_under_m_sharpness(two):
    first, second = two(_train, "sam", "diagonal", False, True)
    assert _identical(first, second)
    assert not _identical(first, _train("sam"))


def _accumulate():
    """The last micro-batch synchronises for all."""
    net = _network("mlp")
    model = DistributedDataParallel(net)
    optimizer = SharpnessAware(_sgd(model), rho=0.1, model=model)
    for step in range(4):
        x, y = _mine(*_data("mlp", step))

        def closure(x=x, y=y):
            optimizer.zero_grad()
            with model.no_sync():
                first = mean_loss(model(x[: len(x) // 2]), y[: len(y) // 2]) / 2
                first.backward()
            last = mean_loss(model(x[len(x) // 2 :]), y[len(y) // 2 :]) / 2
            last.backward()
            return first + last

        optimizer.step(closure)
    return _weights(net)


def test_accumulation_without_synchronising(two):
    first, second = two(_accumulate)
    assert _identical(first, second)
    _close(first, _train("sam"))


def _refreshed(kind, structure, divergence, reduction, dtype, shard=False):
    """After two refreshes: U by name, U g, the storage and the reports."""
    group = dist.group.WORLD if dist.is_initialized() else None
    options = {"structure": structure, "divergence": divergence, "reduction": reduction}
    metric = LLQR(_network(kind, dtype), inner_steps=4, ema=0.5, process_group=group, shard=shard, **options)
    reports = []
    for step in range(2):
        x, y = _mine(*_data(kind, step, dtype))
        reports.append(metric.refresh(x, y, mean_loss))
    factors = {f"{n}.{key}": f.clone() for n, fs in metric.named_factors().items() for key, f in fs.items()}
    generator = torch.Generator().manual_seed(3)
    v = {n: torch.randn(p.shape, generator=generator, dtype=dtype) for n, p in metric.model.named_parameters()}
    some = dict(list(v.items())[1::2])
    return factors, metric.apply(v), metric.apply(some), metric.storage, [r.objective_after for r in reports]


REFRESHES = [("mlp", structure, *how) for structure in STRUCTURES for how in DIVERGENCES] + [
    ("transformer", "ekfac", "ngd", "sum"),
    ("transformer", "kfac", "newton", "mean"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "structure", "divergence", "reduction"), REFRESHES)
def test_refresh_is_one_process_on_the_whole_minibatch(two, kind, structure, divergence, reduction):
    case = (kind, structure, divergence, reduction, torch.float64)
    (first, *_, objectives), (second, *_) = two(_refreshed, *case)
    expected, *_, expected_objectives = _refreshed(*case)
    assert _identical(first, second)
    _close(first, expected)
    assert objectives == pytest.approx(expected_objectives, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_refresh_in_single_precision(two, divergence):
    case = ("transformer", "ekfac", divergence, "mean", torch.float32)
    (first, *_), (second, *_) = two(_refreshed, *case)
    assert _identical(first, second)
    _close(first, _refreshed(*case)[0], 1e-6)


SHARDED = [("two", "mlp", structure) for structure in STRUCTURES] + [
    ("four", "mlp", "diagonal"),
    ("four", "mlp", "ekfac"),
    ("four", "transformer", "kfac"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "kind", "structure"), SHARDED)
def test_sharded_metric_is_one_process(ranks, kind, structure, request):
    """The shares are disjoint, together U; U v is whole and has the same bits on every rank."""
    case = (kind, structure, "ngd", "sum", torch.float64)
    shares = request.getfixturevalue(ranks)(_refreshed, *case, True)
    factors, applied, some, storage, objectives = _refreshed(*case)
    merged = {name: factor for share, *_ in shares for name, factor in share.items()}
    assert sum(len(share) for share, *_ in shares) == len(merged)
    _close(merged, factors)
    for _, mine, mine_some, _, mine_objectives in shares:
        assert _identical(mine, shares[0][1])
        _close(mine, applied)
        _close(mine_some, some)
        assert mine_objectives == pytest.approx(objectives, rel=1e-9)
    assert sum(share[3] for share in shares) == storage


def _storage(structure):
    return LLQR(_network("transformer"), structure=structure, process_group=dist.group.WORLD, shard=True).storage


@pytest.mark.parametrize("structure", STRUCTURES)
def test_sharded_storage_is_divided(four, structure):
    """Within a third of an equal share, where no single kernel is larger than that (paper, Table 9: S = 4)."""
    storages = four(_storage, structure)
    assert max(storages) <= 4 / 3 * sum(storages) / 4
    assert sum(storages) == LLQR(_network("transformer"), structure=structure).storage


@pytest.mark.parametrize("structure", ["diagonal", "kfac"])
def test_training_with_a_sharded_metric(two, structure):
    first, second = two(_train, "llqr_sam", structure, True)
    assert _identical(first, second)
    _close(first, _train("llqr_sam", structure))


def _reloaded(state):
    """The share that a rank takes of a whole U, what it saves of it, and what it says of another rank's share."""
    metric = LLQR(_network("mlp"), structure="kfac", process_group=dist.group.WORLD, shard=True)
    metric.load_state_dict(state)
    saved = metric.state_dict()
    share = {name: {key: f.clone() for key, f in factors.items()} for name, factors in metric.named_factors().items()}
    others = [None] * dist.get_world_size()
    dist.all_gather_object(others, {**saved, "factors": share})
    try:
        metric.load_state_dict(others[1 - dist.get_rank()])
    except ValueError as error:
        return share, saved["factors"], str(error)


def test_sharded_state_is_a_share_of_the_whole(two):
    """And the first rank saves the whole."""
    metric = LLQR(_network("mlp"), structure="kfac", inner_steps=5)
    metric.refresh(*_data("mlp"), mean_loss)
    whole = metric.state_dict()
    (first, saved, complaint), (second, saved_too, _) = two(_reloaded, whole)
    assert "another share of this model" in complaint
    merged = {**first, **second}
    assert saved.keys() == merged.keys() == whole["factors"].keys()
    assert saved_too.keys() == second.keys()
    assert len(merged) == len(first) + len(second)
    for name, factors in merged.items():
        assert _identical(factors, whole["factors"][name])
        assert _identical(saved[name], whole["factors"][name])
    with pytest.raises(ValueError, match="another share of this model"):
        metric.load_state_dict({**whole, "factors": first})
    metric.load_state_dict({**whole, "factors": saved})


def _refresh_with_a_broken_rank(shard):
    metric = LLQR(_network("mlp"), structure="kfac", process_group=dist.group.WORLD, shard=shard)
    x, y = _mine(*_data("mlp"))
    report = metric.refresh(x * (float("nan") if dist.get_rank() == 1 else 1.0), y, mean_loss)
    kernels = [f for fs in metric.named_factors().values() for f in fs.values() if f.ndim == 3]
    return report.accepted, all(torch.equal(f[0], torch.eye(len(f[0]), dtype=f.dtype)) for f in kernels)


@pytest.mark.parametrize("shard", [False, True])
def test_a_bad_minibatch_on_one_rank_is_refused_by_all(two, shard):
    assert two(_refresh_with_a_broken_rank, shard) == [(False, True), (False, True)]


def _overflow_on_one_worker():
    """m-sharpness in float16: the first pass overflows on rank 1 only."""
    net = _network("mlp", torch.float32)
    model = DistributedDataParallel(net)
    optimizer = SharpnessAware(_sgd(model), rho=0.1, model=model, first_pass=model.no_sync)
    scaler = ShardedGradScaler("cpu", init_scale=1024.0)
    x, y = _mine(*_data("mlp", dtype=torch.float32))
    before = _weights(net)
    factor = float("inf") if dist.get_rank() == 1 else 1.0
    optimizer.step(_closure(model, optimizer, x, y, scaler, factor), scaler=scaler)
    scaler.update()
    skipped, scale = _identical(_weights(net), before), scaler.get_scale()
    optimizer.step(_closure(model, optimizer, x, y, scaler), scaler=scaler)
    scaler.update()
    return skipped, scale, _weights(net)


def test_overflow_on_one_worker_skips_the_step_on_all(two):
    (skipped, scale, weights), (skipped_too, scale_too, other_weights) = two(_overflow_on_one_worker)
    assert skipped
    assert skipped_too
    assert scale == scale_too == 512.0
    assert _identical(weights, other_weights)


def _more_ranks_than_layers():
    try:
        LLQR(nn.Linear(2, 2), process_group=dist.group.WORLD, shard=True)
    except ValueError as error:
        return str(error)


def test_a_rank_without_a_share_is_refused(two):
    assert two(_more_ranks_than_layers) == [None, "shard=True leaves rank 1 of 2 without a parameter; use fewer ranks."]


def _wrapped():
    net = _network("mlp")
    ddp = DistributedDataParallel(net)
    both = torch.compile(ddp, backend="eager")
    return (
        unwrapped(both) is net,
        [ranks_of(model, None).group is not None for model in (net, ddp, both)],
        list(LLQR(both).named_factors()) == [name for name, _ in net.named_parameters()],
        SharpnessAware(_sgd(both), probe=LLQR(ddp), transport=LLQR(net, process_group="none"), model=both).model is net,
    )


def test_wrappers_are_looked_through(two):
    assert two(_wrapped)[0] == (True, [False, True, True], True, True)


def _static_graph():
    model = DistributedDataParallel(_network("mlp"), static_graph=True)
    try:
        SharpnessAware(_sgd(model), first_pass=model.no_sync)
    except ValueError as error:
        return str(error)


def test_a_perturbation_per_worker_needs_a_dynamic_graph(two):
    assert two(_static_graph)[0] == "first_pass=ddp.no_sync needs DistributedDataParallel(static_graph=False)."


def _undeclared(joined_later):
    """A U of the bare network, as one writes it where a framework wraps the network later."""
    net = _network("mlp")
    try:
        metric = LLQR(net, process_group="none")
        if joined_later:
            metric._process_group = None  # as if it were made before the processes were joined
            metric.refresh(*_data("mlp"), mean_loss)
        else:
            LLQR(net)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("joined_later", [False, True])
def test_replicas_that_would_learn_a_u_each_are_refused(two, joined_later):
    for message in two(_undeclared, joined_later):
        assert message.startswith("each of the 2 processes here would learn a U of its own")
        assert 'process_group="none"' in message


def _alone():
    metric = LLQR(_network("mlp"), inner_steps=2, process_group="none")
    x, y = _data("mlp", dist.get_rank())
    metric.refresh(x, y, mean_loss)
    return {f"{n}.{key}": f.clone() for n, fs in metric.named_factors().items() for key, f in fs.items()}


def test_processes_may_learn_alone(two):
    first, second = two(_alone)
    assert not _identical(first, second)


def test_one_process_exchanges_nothing():
    ranks, named = Ranks(), {"a": torch.ones(2)}
    assert ranks.summed(named) is named
    assert ranks.complete(named, named) is named
    assert ranks.share([3, 1, 2], lambda size: size) == [3, 1, 2]
    assert [ranks.agree(torch.tensor(holds)) for holds in (True, False)] == [True, False]
    assert ranks_of(nn.Linear(2, 2), None).group is None


def test_shares_are_balanced_and_complete():
    sizes = [100, 1, 1, 60, 40, 30, 30, 38]
    shares = []
    for rank in range(3):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 3
        shares.append(ranks.share(list(enumerate(sizes)), lambda item: item[1]))
    assert sorted(item for share in shares for item in share) == list(enumerate(sizes))
    assert all(share == sorted(share) for share in shares)
    assert [sum(size for _, size in share) for share in shares] == pytest.approx([100, 100, 100], abs=10)


@pytest.mark.slow
def test_perturbation_per_worker_needs_a_whole_metric():
    net = nn.Linear(2, 2)
    metric = LLQR(net, shard=True)
    with pytest.raises(ValueError, match="first_pass=.*shard=True"):
        SharpnessAware(_sgd(net), probe=metric, first_pass=torch.no_grad)
