"""A model may be cast, moved, reformatted or given other parameters between two steps: nothing kept goes stale."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from llqr_sam import LLQR, Adaptive, FisherDiagonal, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import closure_of, identical

COMPOSITIONS = {
    "sam": lambda net: {},
    "f_sam": lambda net: {"direction": Friendly()},
    "vasso": lambda net: {"direction": VarianceSuppressed()},
    "fisher_sam": lambda net: {"probe": FisherDiagonal()},
    "asam": lambda net: {"probe": Adaptive(net)},
    "info_sam": lambda net: {"probe": GradientNoise()},
}


def _composed(net, name, lr=0.05):
    return SharpnessAware(torch.optim.SGD(net.parameters(), lr=lr), rho=0.1, model=net, **COMPOSITIONS[name](net))


def _step(net, optimizer, seed):
    """One step on a minibatch that only the seed decides, in the network's dtype."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 6, dtype=torch.float64, generator=generator).to(next(net.parameters()).dtype)
    optimizer.step(closure_of(net, optimizer, x, torch.randint(0, 5, (12,), generator=generator)))


@pytest.mark.parametrize("name", list(COMPOSITIONS))
@pytest.mark.parametrize(
    "dtypes", [(torch.bfloat16, torch.float32, torch.float64), (torch.float64, torch.float32, torch.bfloat16)]
)
def test_a_cast_model_is_restored_exactly(name, dtypes):
    """A learning rate of 0 shows every bit that the perturbation leaves behind."""
    net, _, _ = NETWORKS["mlp"]()
    optimizer = _composed(net, name, lr=0.0)
    for seed, dtype in enumerate(dtypes):
        net.to(dtype)
        for parameter in net.parameters():
            parameter.data.mul_(1 + 1e-5)  # weights that the narrower dtype before cannot hold
        before = {n: t.clone() for n, t in net.state_dict().items()}
        _step(net, optimizer, seed)
        assert identical(net.state_dict(), before)


def test_a_reformatted_model_is_restored_exactly():
    net, x, y = NETWORKS["conv"]()
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.0), rho=0.1, direction=Friendly(), model=net)
    before = {n: p.clone() for n, p in net.named_parameters()}
    for memory_format in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        net.to(memory_format=memory_format)
        optimizer.step(closure_of(net, optimizer, x, y))
        assert identical(dict(net.named_parameters()), before)


@pytest.mark.parametrize("name", list(COMPOSITIONS))
def test_a_step_after_a_cast_is_the_step_of_the_wider_dtype(name):
    """Float32 weights and gradients of integers are exact, so the wider network sees the same numbers."""
    narrow, wide = NETWORKS["mlp"]()[0].float(), NETWORKS["mlp"]()[0]
    wide.load_state_dict(narrow.state_dict())
    cast, kept = _composed(narrow, name), _composed(wide, name)
    for seed in range(2):
        _step(narrow, cast, seed)
        _step(wide, kept, seed)
    narrow.double()
    for seed in range(2, 4):
        _step(narrow, cast, seed)
        _step(wide, kept, seed)
    for n, p in wide.named_parameters():
        torch.testing.assert_close(narrow.get_parameter(n), p, rtol=1e-4, atol=1e-5)


def test_the_average_of_a_cast_model_goes_on():
    """F-SAM by hand: v = g - m with the m of float32 gradients, and then the average of both."""
    friendly = Friendly(decay=0.6)
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0], dtype=torch.float64)
    friendly({"w": first})
    v = friendly({"w": second})["w"]
    assert v.dtype == torch.float64
    torch.testing.assert_close(v, torch.tensor([2.0, -3.0], dtype=torch.float64))
    torch.testing.assert_close(friendly.average["w"], torch.tensor([1.8, 0.8], dtype=torch.float64))


@pytest.mark.parametrize("build", [Friendly, VarianceSuppressed])
def test_a_parameter_of_another_shape_starts_its_average_anew(build):
    """A head for another number of classes: the old [1] would broadcast against the new [7] and say nothing."""
    used, fresh = build(), build()
    used({"head.bias": torch.randn(1), "body": torch.ones(2)})
    g = torch.randn(7)
    assert torch.equal(used({"head.bias": g})["head.bias"], fresh({"head.bias": g})["head.bias"])
    assert torch.equal(used.average["head.bias"], fresh.average["head.bias"])
    assert used.average["body"].eq(1).all()


def test_a_parameter_of_another_shape_starts_its_noise_anew():
    used, fresh = GradientNoise(), GradientNoise()
    for _ in range(2):
        used.observe({"head.bias": torch.randn(1)})
    g = {"head.bias": torch.randn(7)}
    used.observe(g)
    fresh.observe(g)
    assert torch.equal(used.apply(g)["head.bias"], fresh.apply(g)["head.bias"])


def _averages(optimizer):
    return optimizer.probe.state_dict().get("mean") or optimizer.direction.state_dict()["average"]


def test_replaced_parameters_leave_no_memory_behind():
    net, _, _ = NETWORKS["mlp"]()
    optimizer = _composed(net, "asam")
    _step(net, optimizer, 0)
    old = weakref.ref(net[0].weight)
    net[0].weight = nn.Parameter(torch.randn(8, 6, dtype=torch.float64))
    optimizer.param_groups[0]["params"] = list(net.parameters())
    _step(net, optimizer, 1)
    gc.collect()
    assert old() is None


def test_asam_scales_by_the_present_parameters():
    net, _, _ = NETWORKS["mlp"]()
    metric = Adaptive(net, eta=0.0)
    net[0].weight = nn.Parameter(torch.full((8, 6), 3.0, dtype=torch.float64))
    assert metric.apply({"0.weight": torch.ones(8, 6).double()})["0.weight"].eq(9).all()


@pytest.mark.parametrize("how", ["replaced", "converted"])
def test_a_base_left_with_old_parameters_is_refused(how):
    """It would move tensors that the network no longer has, and never the new ones."""
    net, _, _ = NETWORKS["mlp"]()
    optimizer = _composed(net, "sam")
    _step(net, optimizer, 0)
    if how == "replaced":
        net[0].weight = nn.Parameter(net[0].weight.detach().clone())
    else:
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            net.float()
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
    with pytest.raises(ValueError, match="not the model's; give it the present ones"):
        _step(net, optimizer, 1)


def test_a_u_of_another_dtype_is_refused():
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, inner_steps=1)
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.05), probe=metric, transport=metric)
    metric.refresh(x, y, mean_loss)
    net.float()
    with pytest.raises(ValueError, match=r"now torch\.float32 .*U is torch\.float64"):
        _step(net, optimizer, 0)


@pytest.mark.parametrize("name", ["f_sam", "vasso", "info_sam"])
def test_averages_of_a_half_precision_model_load_bit_for_bit(name):
    """They are in float32, and a bfloat16 parameter must not round them."""
    nets = [NETWORKS["mlp"]()[0].bfloat16() for _ in range(2)]
    first, second = (_composed(net, name) for net in nets)
    for seed in range(3):
        _step(nets[0], first, seed)
    nets[1].load_state_dict(nets[0].state_dict())
    second.load_state_dict(first.state_dict())
    assert identical(_averages(first), _averages(second))
    for net, optimizer in zip(nets, (first, second), strict=True):
        _step(net, optimizer, 3)
    assert identical(nets[0].state_dict(), nets[1].state_dict())
