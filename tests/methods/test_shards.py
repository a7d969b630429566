"""Parameters spread over two ranks (fully_shard, tensor parallel): the step of one process, and its checkpoints."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from llqr_sam import LLQR, Adaptive, FisherDiagonal, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from tests.methods.networks import mean_loss

OLD = torch.__version__ < "2.7"
pytestmark = pytest.mark.skipif(OLD, reason="fully_shard of torch 2.6 does not run on a CPU")

METHODS = {
    "sam": lambda net: {},
    "f_sam": lambda net: {"direction": Friendly()},
    "vasso": lambda net: {"direction": VarianceSuppressed()},
    "asam": lambda net: {"probe": Adaptive(net)},
    "fisher_sam": lambda net: {"probe": FisherDiagonal()},
    "info_sam": lambda net: {"probe": GradientNoise()},
}


def _network():
    """Seven columns do not divide by two ranks."""
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.LayerNorm(7), nn.Linear(7, 5))


def _sharded(net, how, policy=None):
    """The network on this rank; one process keeps it whole."""
    if not dist.is_initialized():
        return net
    mesh = init_device_mesh("cpu", (2,))
    if how == "fsdp2":
        options = {"mesh": mesh, **({"mp_policy": policy} if policy else {})}
        for layer in (net[0], net[2]):
            fully_shard(layer, **options)
        return fully_shard(net, **options)
    return parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})  # the rest is whole


def _data(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), torch.randint(0, 5, (16,), generator=generator)


def _mine(how, *tensors):
    """This rank's rows under FSDP; tensor parallel ranks see all."""
    if how != "fsdp2" or not dist.is_initialized():
        return tensors
    return tuple(t.chunk(2)[dist.get_rank()] for t in tensors)


def _whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _weights(net):
    return {n: _whole(p.detach()).clone() for n, p in net.named_parameters()}


def _step(net, optimizer, how, step, two_steps=False):
    x, y = _mine(how, *_data(step))

    def closure():
        loss = mean_loss(net(x), y)
        loss.backward()
        return loss

    if not two_steps:
        return optimizer.step(closure)
    optimizer.zero_grad()
    closure()
    optimizer.first_step()
    closure()
    return optimizer.second_step()


def _optimizer(net, method, base="sgd", **options):
    bases = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "adamw": torch.optim.AdamW}
    return SharpnessAware(bases[base](net.parameters()), rho=0.1, model=net, **METHODS[method](net), **options)


def _train(method, how, two_steps=False, clip=None, named=True):
    net = _sharded(_network(), how)
    optimizer = _optimizer(net, method)
    if not named:
        optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), rho=0.1)

    def clip_gradient(*_):
        nn.utils.clip_grad_norm_(net.parameters(), clip)

    if clip:
        optimizer.base.register_step_pre_hook(clip_gradient)
    for step in range(4):
        _step(net, optimizer, how, step, two_steps)
    return _weights(net)


def _close(actual, expected, tolerance=1e-6):
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("how", ["fsdp2", "tensor parallel"])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_sharded_network_is_trained_as_one_process_does(two, method, how):
    first, second = two(_train, method, how)
    expected = _train(method, how)
    _close(first, expected)
    _close(second, expected)


def test_without_a_name_and_in_two_steps_it_is_the_same(two):
    expected = _train("sam", "fsdp2")
    _close(two(_train, "sam", "fsdp2", False, None, False)[0], expected)
    _close(two(_train, "sam", "fsdp2", True)[0], expected)


def test_a_clipped_gradient_of_a_sharded_network(two):
    expected = _train("sam", "fsdp2", clip=0.05)
    _close(two(_train, "sam", "fsdp2", False, 0.05)[0], expected)
    assert not torch.allclose(expected["0.weight"], _train("sam", "fsdp2")["0.weight"], atol=1e-4)


def _radius(policy):
    """Length of the perturbation, over all ranks."""
    net = _sharded(_network(), "fsdp2", policy)
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), rho=0.05)
    before, lengths = _weights(net), []
    x, y = _mine("fsdp2", *_data(0))

    def closure():
        if optimizer.perturbed:
            now = _weights(net)
            lengths.append(float(torch.stack([(now[n] - before[n]).norm() for n in before]).norm()))
        loss = mean_loss(net(x).float(), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return lengths[0], {str(p.dtype) for p in net.parameters()}


@pytest.mark.parametrize("policy", [None, MixedPrecisionPolicy(param_dtype=torch.bfloat16)])
def test_the_radius_is_of_the_whole_network(two, policy):
    for radius, dtypes in two(_radius, policy):
        assert radius == pytest.approx(0.05, rel=1e-4)
        assert dtypes == {"torch.float32"}


def _refusals():
    told = []
    for build in (
        lambda: LLQR(_sharded(_network(), "fsdp2"), process_group=dist.group.WORLD),
        lambda: LLQR(_sharded(_network(), "tensor parallel"), process_group=dist.group.WORLD),
        lambda: _fsdp1(use_orig_params=False),
        lambda: _fsdp1(use_orig_params=True),
    ):
        try:
            build()
            told.append("")
        except ValueError as error:
            told.append(str(error))
    return told


def _fsdp1(use_orig_params):
    mesh = init_device_mesh("cpu", (2,))
    options = {"device_mesh": mesh, "device_id": torch.device("cpu"), "use_orig_params": use_orig_params}
    net = FullyShardedDataParallel(_network(), **options)
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1))
    _step(net, optimizer, "fsdp2", 0)


def test_what_cannot_be_sharded_says_what_to_use(two):
    for llqr, llqr_too, flat, original in two(_refusals):
        assert "is spread over ranks (fully_shard, FSDP or tensor parallel)" in llqr
        assert llqr_too == llqr
        assert "use torch.distributed.fsdp.fully_shard (FSDP2)" in flat
        assert original == flat


def _save(method, folder, base):
    net = _sharded(_network(), "fsdp2")
    optimizer = _optimizer(net, method, base)
    for step in range(2):
        _step(net, optimizer, "fsdp2", step)
    optimizer.zero_grad()
    dcp.save({"net": net.state_dict(), "optimizer": get_optimizer_state_dict(net, optimizer)}, checkpoint_id=folder)
    return _weights(net), _tensors(optimizer)


def _load(method, folder, base):
    """Into a fresh optimizer; then a step."""
    net = _sharded(_network(), "fsdp2")
    optimizer = _optimizer(net, method, base)
    state = {"net": net.state_dict(), "optimizer": get_optimizer_state_dict(net, optimizer)}
    dcp.load(state, checkpoint_id=folder)
    net.load_state_dict(state["net"])
    set_optimizer_state_dict(net, optimizer, state["optimizer"])
    found = _weights(net), _tensors(optimizer), optimizer.steps
    _step(net, optimizer, "fsdp2", 2)
    return *found, _weights(net)


def _tensors(optimizer):
    """Every tensor of the state, whole, by parameter and key."""
    return {
        f"{number} {key}": _whole(value).clone()
        for number, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
        if isinstance(value, torch.Tensor)
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["sam", "f_sam", "info_sam"])
def test_a_checkpoint_of_two_ranks_is_loaded_bit_for_bit_by_one_and_by_two(two, method, base, tmp_path):
    (weights, state), _ = two(_save, method, str(tmp_path), base)
    assert any("sharpness_aware/" in key for key in state) == (method != "sam")
    for loaded in (_load(method, str(tmp_path), base), *two(_load, method, str(tmp_path), base)):
        found_weights, found_state, steps, after = loaded
        assert steps == 2
        for found, saved in ((found_weights, weights), (found_state, state)):
            assert found.keys() == saved.keys()
            assert all(torch.equal(found[key], saved[key]) for key in saved)
        _close(after, _load(method, str(tmp_path), base)[-1])
