"""A step in two calls, for loops without closures: the same as ``step(closure)``, and refused where it would not be."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch.amp import GradScaler
from torch.optim.lr_scheduler import StepLR

from llqr_sam import LLQR, SharpnessAware
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import METHODS, closure_of, identical, sgd


def _train(method, two, name="mlp", micro_batches=1, options=None, scaler=None):
    """Weights and optimizer state after four steps."""
    torch.manual_seed(5)
    net, x, y = NETWORKS[name]()
    if scaler:
        net, x = net.float(), x.float()
    optimizer = METHODS[method](net) if options is None else SharpnessAware(sgd(net), rho=0.1, model=net, **options)
    if isinstance(optimizer.probe, LLQR):
        optimizer.probe.refresh(x, y, mean_loss)
    scheduler, keywords = StepLR(optimizer, 2), {"scaler": scaler} if scaler else {}

    def evaluate():
        total = 0.0
        for inputs, targets in zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True):
            loss = mean_loss(net(inputs), targets) / micro_batches
            (scaler.scale(loss) if scaler else loss).backward()
            total = total + loss.detach()
        return total

    for _ in range(4):
        if two:
            optimizer.zero_grad()
            evaluate()
            optimizer.first_step(**keywords)
            evaluate()
            optimizer.second_step()
        else:
            optimizer.step(evaluate, **keywords)
        if scaler:
            scaler.update()
        scheduler.step()
    return net.state_dict(), optimizer


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("method", list(METHODS))
def test_two_steps_are_the_step_with_a_closure(method, micro_batches):
    two, optimizer = _train(method, True, micro_batches=micro_batches)
    one, other = _train(method, False, micro_batches=micro_batches)
    assert identical(two, one)
    assert optimizer.steps == other.steps == 4


@pytest.mark.parametrize("options", [{"start_step": 2}, {"start_step": 9}])
def test_two_steps_before_the_first_perturbation(options):
    assert identical(_train("", True, options=options)[0], _train("", False, options=options)[0])


def test_two_steps_with_batch_norm_take_the_statistics_of_the_first():
    options = {"batch_norm": "clean"}
    assert identical(_train("", True, "conv", options=options)[0], _train("", False, "conv", options=options)[0])


def test_two_steps_with_a_loss_scale():
    scaled, plain = (GradScaler("cpu", init_scale=2.0**10) for _ in range(2))
    assert identical(_train("sam", True, scaler=scaled)[0], _train("sam", False, scaler=plain)[0])
    assert scaled.get_scale() == plain.get_scale()


@pytest.mark.parametrize("bad", [0, 1])
def test_an_overflow_in_either_pass_skips_the_step(bad):
    net, x, y = NETWORKS["mlp"]()
    net, x = net.float(), x.float()
    optimizer, scaler = SharpnessAware(sgd(net)), GradScaler("cpu", init_scale=1024.0)
    before = {n: p.clone() for n, p in net.state_dict().items()}
    for number, step in enumerate((lambda: optimizer.first_step(scaler=scaler), optimizer.second_step)):
        scaler.scale(mean_loss(net(x), y) * (float("inf") if number == bad else 1.0)).backward()
        step()
    scaler.update()
    assert identical(net.state_dict(), before)
    assert (scaler.get_scale(), optimizer.steps, optimizer.perturbed) == (512.0, 0, False)


@pytest.mark.parametrize("named", [True, False])
def test_statistics_of_the_second_pass_cannot_be_had(named):
    net, x, y = NETWORKS["conv"]()
    optimizer = SharpnessAware(sgd(net), model=net if named else None)
    weights = {n: p.clone() for n, p in net.named_parameters()}

    def step():
        mean_loss(net(x), y).backward()
        optimizer.first_step()
        mean_loss(net(x), y).backward()
        optimizer.second_step()

    with pytest.raises(ValueError, match='SharpnessAware\\(batch_norm="clean"\\)'):
        step()
    assert identical(dict(net.named_parameters()), weights)
    assert not optimizer.perturbed


def _between(**options):
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.1, model=net, **options)
    mean_loss(net(x), y).backward()
    optimizer.first_step()
    return net, optimizer, lambda: mean_loss(net(x), y).backward()


MISUSES = {
    "first twice": (lambda net, o: o.first_step(), r"first_step\(\) came between the two passes"),
    "step": (lambda net, o: o.step(lambda: 1.0), r"step\(\) came between the two passes"),
    "state": (lambda net, o: o.state_dict(), r"state_dict\(\) came between the two passes"),
    "load": (lambda net, o: o.load_state_dict({}), r"load_state_dict\(\) came between the two passes"),
    "copy": (lambda net, o: copy.deepcopy(o), "a copy came between the two passes"),
    "save": (lambda net, o: net.state_dict(), "the weights are perturbed between"),
    "load network": (lambda net, o: net.load_state_dict({}), "the weights are perturbed between"),
    "evaluate": (lambda net, o: o.eval(), r"eval\(\) came between the two passes"),
    "no second pass": (lambda net, o: o.second_step(), "the second pass left no gradient"),
}


@pytest.mark.parametrize("name", list(MISUSES))
def test_misuse_between_the_two_steps_is_one_sentence(name):
    net, optimizer, _ = _between()
    act, message = MISUSES[name]
    with pytest.raises(RuntimeError, match=message) as error:
        act(net, optimizer)
    assert "\n" not in str(error.value)


def test_an_evaluation_between_the_two_steps_is_refused():
    """In training mode it may belong to the loss, as pseudo-labels do."""
    net, _, backward = _between()
    net.eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match="the weights are perturbed between"):
        net(torch.randn(2, 6, dtype=torch.float64))
    net.train()
    with torch.no_grad():
        net(torch.randn(2, 6, dtype=torch.float64))
    backward()


def test_a_second_step_needs_a_first():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    mean_loss(net(x), y).backward()
    with pytest.raises(RuntimeError, match=r"second_step\(\) comes after first_step\(\)"):
        optimizer.second_step()


def test_a_first_step_needs_a_gradient():
    net, _, _ = NETWORKS["mlp"]()
    with pytest.raises(RuntimeError, match="the first pass left no gradient"):
        SharpnessAware(sgd(net)).first_step()


@pytest.mark.parametrize("name", ["same_randomness", "first_pass"])
def test_what_needs_to_know_where_a_pass_begins_is_refused(name):
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), **{name: True if name == "same_randomness" else torch.no_grad})
    mean_loss(net(x), y).backward()
    with pytest.raises(ValueError, match=f"{name}= is for step"):
        optimizer.first_step()


def test_gradients_need_not_be_cleared_between_steps():
    """Both calls clear them."""

    def train(clears):
        torch.manual_seed(5)
        net, x, y = NETWORKS["mlp"]()
        optimizer = SharpnessAware(sgd(net))
        for _ in range(3):
            if clears:
                optimizer.zero_grad()
            mean_loss(net(x), y).backward()
            optimizer.first_step()
            mean_loss(net(x), y).backward()
            optimizer.second_step()
        return net.state_dict()

    assert identical(train(True), train(False))


@pytest.mark.parametrize("late", [0, 1])
def test_an_interrupt_while_the_weights_move_leaves_them_at_theta(late, monkeypatch):
    """Before anything is added, or right after it."""
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.5)
    before, add = {n: p.clone() for n, p in net.state_dict().items()}, torch._foreach_add_

    def interrupted(*arguments, **keywords):
        if late:
            add(*arguments, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "_foreach_add_", interrupted)
    mean_loss(net(x), y).backward()
    with pytest.raises(KeyboardInterrupt):
        optimizer.first_step()
    assert not optimizer.perturbed
    optimizer.zero_grad()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(lambda: mean_loss(net(x), y).backward())
    assert identical(net.state_dict(), before)


def test_an_interrupted_step_can_be_forgotten():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.5, model=net)
    before = {n: p.clone() for n, p in net.state_dict().items()}
    mean_loss(net(x), y).backward()
    optimizer.first_step()
    assert not torch.equal(net[0].weight, before["0.weight"])
    optimizer.restore()
    optimizer.restore()
    assert identical(net.state_dict(), before)
    assert optimizer.state_dict()["param_groups"][0]["sharpness_aware/steps"] == 0
    optimizer.step(closure_of(net, optimizer, x, y))


def test_after_the_two_steps_the_network_can_be_saved_and_used():
    net, optimizer, backward = _between()
    backward()
    optimizer.second_step()
    net.state_dict()
    with torch.no_grad():
        net(torch.randn(2, 6, dtype=torch.float64))
    assert not net._forward_pre_hooks
    assert not net._state_dict_pre_hooks


def test_hooks_surround_the_two_steps():
    net, x, y = NETWORKS["mlp"]()
    optimizer, called = SharpnessAware(sgd(net)), []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.base.register_step_post_hook(lambda *_: called.append("base"))
    mean_loss(net(x), y).backward()
    optimizer.first_step()
    mean_loss(net(x), y).backward()
    optimizer.second_step()
    assert called == ["before", "base", "after"]


def test_a_scheduler_knows_that_the_optimizer_has_stepped(recwarn):
    _train("sam", True)
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]


def test_a_context_may_surround_the_second_of_two_steps():
    inside = []

    @contextlib.contextmanager
    def second():
        inside.append("in")
        yield
        inside.append("out")

    _, optimizer, backward = _between(second_pass=second)
    assert inside == ["in"]
    backward()
    optimizer.second_step()
    assert inside == ["in", "out"]


def test_a_wrapper_with_a_copy_of_the_attributes_takes_the_same_steps():
    """Lightning's wrapper of an optimizer is one."""
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    wrapper = object.__new__(type("Wrapper", (SharpnessAware,), {}))
    vars(wrapper).update(vars(optimizer))
    mean_loss(net(x), y).backward()
    wrapper.first_step()
    assert optimizer.perturbed
    mean_loss(net(x), y).backward()
    wrapper.second_step()
    assert (optimizer.steps, wrapper.steps, optimizer.perturbed) == (1, 1, False)
