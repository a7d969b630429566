"""A step costs a GPU few kernels: operations are counted, and lists of tensors are fit for one kernel each."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llqr_sam import LLQR, Adaptive, FisherDiagonal, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from llqr_sam.methods import named
from llqr_sam.models.registry import build

MARKS = ("_record_function_enter_new", "_record_function_exit")  # the profiler's, around any optimizer's step


def _llqr(net, **parts):
    metric = LLQR(net, inner_steps=2)
    return {"probe": metric, "transport": metric, **parts}


METHODS = {
    "sam": (14, lambda net: {}),
    "llqr": (1, lambda net: {"transport": LLQR(net, inner_steps=2), "rho": 0.0}),
    "llqr_sam": (28, _llqr),
    "llqr_f_sam": (30, lambda net: _llqr(net, direction=Friendly())),
    "fisher_sam": (30, lambda net: {"probe": FisherDiagonal()}),
    "fisher_sam_kim": (31, lambda net: {"probe": FisherDiagonal(form="kim")}),
    "asam": (30, lambda net: {"probe": Adaptive(net)}),
    "info_sam": (21, lambda net: {"probe": GradientNoise()}),
    "f_sam": (16, lambda net: {"direction": Friendly()}),
    "vasso": (15, lambda net: {"direction": VarianceSuppressed()}),
}


class _Watch(TorchDispatchMode):
    """Names of the operations, and the calls on lists for which CUDA has no single kernel."""

    def __init__(self):
        super().__init__()
        self.names, self.slow, self.paused = [], Counter(), False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not self.paused and name not in MARKS:
            self.names.append(name)
            if name.startswith("_foreach") and not _single_kernel(name, args):
                self.slow[name] += 1
        return func(*args, **(kwargs or {}))


def _single_kernel(name, args):
    """What torch asks of the arguments of a ``_foreach`` operation (``can_use_fast_route`` in ForeachUtils.h)."""
    lists = [a for a in args if isinstance(a, (list, tuple)) and all(isinstance(t, torch.Tensor) for t in a)]
    dtypes = [{t.dtype for t in tensors} for tensors in lists]
    dtypes += [{a.dtype} for a in args if isinstance(a, torch.Tensor)]
    alike = all(len(own) == 1 for own in dtypes) and (name == "_foreach_copy_" or all(d == dtypes[0] for d in dtypes))
    orders = [[_order(t) for t in tensors] for tensors in lists]
    return alike and all(order == orders[0] and all(_dense(*o) for o in order) for order in orders)


def _order(tensor):
    """Sizes and strides of the axes that are longer than 1, and how many entries there are."""
    return [(n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1], tensor.numel()


def _dense(axes, size):
    expected = 1
    for n, stride in sorted(axes, key=lambda axis: axis[1]):
        if stride != expected:
            return False
        expected *= n
    return expected == size


class _Run:
    """A narrow ResNet-18 and an optimizer whose closure and base are not watched."""

    def __init__(self, parts, memory_format=torch.channels_last):
        # At width 4 the backward pass in channels_last corrupts memory on CPUs without AVX-512 (torch 2.13).
        self.net = build("resnet18", classes=10, image_size=32, width=8).to(memory_format=memory_format)
        self.x, self.y = torch.randn(4, 3, 32, 32).to(memory_format=memory_format), torch.randint(0, 10, (4,))
        self.watch = _Watch()
        base = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        self.optimizer = SharpnessAware(base, model=self.net, **{"rho": 0.1, **parts(self.net)})
        base.register_step_pre_hook(lambda *_: self._pause(True))
        base.register_step_post_hook(lambda *_: self._pause(False))

    def _pause(self, paused):
        self.watch.paused = paused

    def refresh(self):
        return self.optimizer.transport.refresh(self.x, self.y, nn.functional.cross_entropy)

    def step(self):
        def closure():
            self._pause(True)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.net(self.x), self.y)
            loss.backward()
            self._pause(False)
            return loss

        self.optimizer.step(closure)

    def watched(self, what):
        self.watch.names.clear()
        self.watch.slow.clear()
        with self.watch:
            what()
        return self.watch


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("llqr", "llqr_f_sam") else ()) for name in METHODS]
)
def test_a_step_is_few_operations_each_of_them_one_kernel(name, monkeypatch):
    monkeypatch.setattr(named, "is_cheap_to_read", lambda tensor: False)  # as on a GPU
    most, parts = METHODS[name]
    run = _Run(parts)
    if "llqr" in name:
        run.refresh()
    for _ in range(2):
        run.step()
    watch = run.watched(run.step)
    assert len(watch.names) <= most, Counter(watch.names)
    assert not watch.slow


@pytest.mark.slow
@pytest.mark.parametrize("before", [torch.contiguous_format, torch.channels_last])
def test_u_follows_a_model_to_another_memory_format(before):
    """At the next refresh; and its products are the same in between."""
    run = _Run(_llqr, memory_format=before)
    run.refresh()
    metric, named = run.optimizer.probe, {n: torch.randn(p.shape) for n, p in run.net.named_parameters()}
    expected = metric.apply(named)
    other = torch.channels_last if before == torch.contiguous_format else torch.contiguous_format
    run.net.to(memory_format=other)
    run.x = run.x.contiguous(memory_format=other)
    laid_out = {n: torch.empty_like(p).copy_(named[n]) for n, p in run.net.named_parameters()}
    for n, ux in metric.apply(laid_out).items():
        assert torch.equal(ux, expected[n])
    run.step()
    run.refresh()
    run.step()
    assert not run.watched(run.step).slow


def test_a_refresh_is_slow_only_where_it_clips_each_part_by_its_own_number():
    """No operation of torch scales the tensors of a list by numbers that are on the device."""
    run = _Run(_llqr)
    run.refresh()
    assert run.watched(run.refresh).slow == {"_foreach_mul_": run.optimizer.probe.inner_steps}
