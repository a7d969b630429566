"""Copies and pickles of optimizers, and the hooks around their state."""

from __future__ import annotations

import copy
import pickle

import pytest
from torch.optim.lr_scheduler import StepLR

from llqr_sam import LLQR, SharpnessAware
from llqr_sam.methods.distributed import Ranks
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import METHODS, closure_of, identical, sgd

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.slow
@pytest.mark.parametrize("how", list(COPIES))
@pytest.mark.parametrize("method", list(METHODS))
def test_a_copy_of_network_and_optimizer_continues_bit_for_bit(method, how):
    """Each moves its own network, with the same steps and refreshes; the copy of U is one piece."""
    net, x, y = NETWORKS["conv"]()
    optimizer = METHODS[method](net)
    scheduler = StepLR(optimizer, 1, gamma=0.9)  # which puts a step of its own into the optimizer

    def train(net, optimizer):
        for _ in range(2):
            if isinstance(optimizer.probe, LLQR):
                optimizer.probe.refresh(x, y, mean_loss)
            optimizer.step(closure_of(net, optimizer, x, y))

    train(net, optimizer)
    scheduler.step()
    other, copied = COPIES[how]((net, optimizer))
    assert {id(p) for p in other.parameters()} == {id(p) for g in copied.param_groups for p in g["params"]}
    assert copied.param_groups is copied.base.param_groups
    before = {n: t.clone() for n, t in net.state_dict().items()}
    train(other, copied)
    assert identical(net.state_dict(), before)
    train(net, optimizer)
    assert identical(net.state_dict(), other.state_dict())


def test_a_copy_of_the_optimizer_alone_has_its_own_network():
    net, x, y = NETWORKS["mlp"]()
    optimizer = METHODS["llqr_sam"](net)
    copied = copy.deepcopy(optimizer)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    copied.step(closure_of(copied.model, copied, x, y))
    assert identical(net.state_dict(), before)
    assert not identical(copied.model.state_dict(), before)


def test_a_metric_of_several_processes_is_not_copied():
    metric = LLQR(NETWORKS["mlp"]()[0])
    metric._ranks = Ranks()
    metric._ranks.group = object()
    with pytest.raises(TypeError, match="cannot be copied or pickled.*state_dict"):
        copy.deepcopy(metric)


def test_state_hooks_are_called_and_may_change_the_state():
    net, _, _ = NETWORKS["mlp"]()
    optimizer, called = SharpnessAware(sgd(net), rho=0.1), []
    optimizer.register_state_dict_pre_hook(lambda o: called.append(("saving", o)))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "note": 1})
    optimizer.register_state_dict_post_hook(lambda o, state: called.append(("saved", state["note"])))
    optimizer.register_load_state_dict_pre_hook(lambda o, state: called.append(("loading", state.pop("note"))))
    optimizer.register_load_state_dict_pre_hook(lambda o, state: {**state, "param_groups": [seven(state)]})
    optimizer.register_load_state_dict_post_hook(lambda o: called.append(("loaded", o.steps)))

    def seven(state):
        return {**state["param_groups"][0], "sharpness_aware/steps": 7}

    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert called == [("saving", optimizer), ("saved", 1), ("loading", 1), ("loaded", 7)]
    assert state["note"] == 1


def test_a_copy_has_no_hooks_and_takes_new_ones():
    """As torch's optimizers do."""
    net, x, y = NETWORKS["mlp"]()
    optimizer, called = SharpnessAware(sgd(net), rho=0.1), []
    optimizer.register_step_post_hook(lambda *_: called.append("original"))
    other, copied = copy.deepcopy((net, optimizer))
    copied.register_step_post_hook(lambda *_: called.append("copy"))
    copied.step(closure_of(other, copied, x, y))
    assert called == ["copy"]
