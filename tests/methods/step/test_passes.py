"""What a closure may and may not do: a pass is the minibatch's gradient and nothing else, or the step is refused."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from llqr_sam import LLQR, Adaptive, FisherDiagonal, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import METHODS, closure_of, identical, sgd


def _trained(method, clear, steps=3):
    """Weights after steps whose closures clear the gradients as ``clear`` does."""
    torch.manual_seed(5)
    net, x, y = NETWORKS["mlp"]()
    optimizer = METHODS[method](net)

    def closure():
        clear(net, optimizer)
        loss = mean_loss(net(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return net.state_dict()


CLEAR = {
    "not at all": lambda net, optimizer: None,
    "to zero": lambda net, optimizer: optimizer.zero_grad(set_to_none=False),
    "by the network": lambda net, optimizer: net.zero_grad(),
    "by the base": lambda net, optimizer: optimizer.base.zero_grad(),
}


@pytest.mark.parametrize("how", list(CLEAR))
@pytest.mark.parametrize("method", ["sam", "llqr_sam", "adamw"])
def test_a_closure_may_clear_the_gradients_as_it_likes(method, how):
    assert identical(_trained(method, CLEAR[how]), _trained(method, lambda net, optimizer: optimizer.zero_grad()))


@pytest.mark.parametrize("how", ["to none", "to zero"])
def test_gradients_may_be_cleared_before_the_step(how):
    """The loop clears, and the closure does not."""

    def train(outside):
        torch.manual_seed(5)
        net, x, y = NETWORKS["mlp"]()
        optimizer = METHODS["sam"](net)

        def closure():
            loss = mean_loss(net(x), y)
            loss.backward()
            return loss

        for _ in range(3):
            if outside:
                optimizer.zero_grad(set_to_none=how == "to none")
                optimizer.step(closure)
            else:
                optimizer.step(closure_of(net, optimizer, x, y))
        return net.state_dict()

    assert identical(train(True), train(False))


def _accumulate(net, optimizer, batches, clear):
    """What frameworks do: all micro-batches but the last before the step, the last one's closure in it."""
    *first, (x, y) = batches
    for inputs, targets in first:
        mean_loss(net(inputs), targets).backward()

    def closure():
        if clear:
            optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)


def _batches():
    torch.manual_seed(2)
    return [(torch.randn(6, 6, dtype=torch.float64), torch.randint(0, 5, (6,))) for _ in range(2)]


@pytest.mark.parametrize("method", ["sam", "f_sam", "llqr_sam"])
@pytest.mark.parametrize("step", [0, 1])
def test_accumulation_outside_the_closure_is_refused_and_changes_nothing(method, step):
    net, x, y = NETWORKS["mlp"]()
    optimizer = METHODS[method](net)
    for _ in range(step):
        optimizer.step(closure_of(net, optimizer, x, y))
    optimizer.zero_grad()
    before = {n: p.clone() for n, p in net.state_dict().items()}
    first, last = _batches()
    mean_loss(net(first[0]), first[1]).backward()
    gradients = {n: p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    with pytest.raises(RuntimeError, match=r"adds to gradients that were there before.*first_step\(\)"):
        _accumulate(net, optimizer, [first, last], clear=False)
    assert identical(net.state_dict(), before)
    assert identical({n: p.grad for n, p in net.named_parameters()}, gradients)
    assert optimizer.steps == step


def test_a_closure_that_clears_is_not_taken_for_accumulation():
    """Gradients of something else may be there before."""

    def train(something_else):
        torch.manual_seed(5)
        net, _, _ = NETWORKS["mlp"]()
        optimizer = METHODS["sam"](net)
        first, last = _batches()
        _accumulate(net, optimizer, [first, last] if something_else else [last], clear=True)
        return net.state_dict()

    assert identical(train(True), train(False))


def test_accumulation_is_right_where_nothing_is_perturbed():
    """There is one pass, and its gradient may be a sum of several backward passes."""

    def train(wrap):
        torch.manual_seed(5)
        net, _, _ = NETWORKS["mlp"]()
        base = sgd(net)
        optimizer = SharpnessAware(base, rho=0.0) if wrap else base
        for _ in range(2):
            optimizer.zero_grad()
            _accumulate(net, optimizer, _batches(), clear=False)
        return net.state_dict()

    assert identical(train(True), train(False))


def test_a_scaler_that_calls_the_step_is_refused():
    """It would apply scaled gradients; the right call works afterwards."""
    net, x, y = NETWORKS["mlp"]()
    net, x = net.float(), x.float()
    optimizer, scaler = SharpnessAware(sgd(net)), GradScaler("cpu", init_scale=2.0**16)
    before = {n: p.clone() for n, p in net.state_dict().items()}
    scaler.scale(torch.ones(()))  # else torch refuses, too

    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        scaler.scale(loss).backward()
        return loss

    with pytest.raises(RuntimeError, match=r"write optimizer\.step\(closure, scaler=scaler\)"):
        scaler.step(optimizer, closure)
    assert identical(net.state_dict(), before)
    optimizer.step(closure, scaler=scaler)
    scaler.update()
    assert optimizer.steps == 1


def test_no_scaler_is_no_scaler():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    optimizer.step(closure_of(net, optimizer, x, y), scaler=None)
    assert optimizer.steps == 1


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_weights_may_be_put_elsewhere_between_steps(rho):
    """A constraint by ``p.data = ...`` moves the memory; what the last step left is known all the same."""

    def train(in_place):
        torch.manual_seed(5)
        net, x, y = NETWORKS["mlp"]()
        optimizer = SharpnessAware(sgd(net), rho=rho)
        for _ in range(4):
            optimizer.step(lambda: mean_loss(net(x), y).backward())
            for p in net.parameters():
                if in_place:
                    p.data.clamp_(-0.3, 0.3)
                else:
                    p.data = p.data.clamp(-0.3, 0.3)
        return net.state_dict()

    assert identical(train(True), train(False))


def test_an_error_in_the_first_pass_leaves_the_gradients_of_others():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    mean_loss(net(x), y).backward()
    before = {n: p.grad for n, p in net.named_parameters()}

    def closure():
        raise KeyError("lost")

    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert all(p.grad is before[n] for n, p in net.named_parameters())


def test_a_group_that_is_added_leaves_the_bases_state_as_it_is():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(torch.optim.AdamW(net[0].parameters()))
    optimizer.step(closure_of(net, optimizer, x, y))
    group, state = optimizer.param_groups[0], optimizer.state[net[0].weight]
    optimizer.add_param_group({"params": list(net[4].parameters())})
    optimizer.step(closure_of(net, optimizer, x, y))
    assert optimizer.param_groups[0] is group
    assert optimizer.state[net[0].weight] is state


def test_a_disabled_scaler_may_call_the_step():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    GradScaler("cpu", enabled=False).step(optimizer, closure_of(net, optimizer, x, y))
    assert optimizer.steps == 1


def test_a_step_without_a_closure_names_the_two_steps():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    mean_loss(net(x), y).backward()
    with pytest.raises(TypeError, match=r"needs a closure.*first_step\(\) and second_step\(\)"):
        optimizer.step()


@pytest.mark.parametrize("method", ["sam", "f_sam", "info_sam", "llqr_sam"])
def test_maximizing_is_minimizing_the_negative(method):
    def train(sign):
        torch.manual_seed(5)
        net, x, y = NETWORKS["mlp"]()
        base = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, maximize=sign < 0)
        metric = LLQR(net) if method == "llqr_sam" else GradientNoise() if method == "info_sam" else None
        direction = Friendly() if method == "f_sam" else None
        optimizer = SharpnessAware(base, rho=0.3, probe=metric, direction=direction, model=net)

        def closure():
            optimizer.zero_grad()
            loss = sign * mean_loss(net(x), y)
            loss.backward()
            return loss

        for _ in range(4):
            optimizer.step(closure)
        return net.state_dict()

    minimized, maximized = train(1), train(-1)
    for name, expected in minimized.items():
        torch.testing.assert_close(maximized[name], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("to", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.SGD])
def test_a_model_may_be_cast_between_two_steps(base, to):
    """The state of the base is cast with it, as when it is loaded."""
    net = NETWORKS["mlp"]()[0].float()
    optimizer = SharpnessAware(
        base(net.parameters(), lr=0.01, **({"momentum": 0.9} if base is torch.optim.SGD else {}))
    )
    for dtype in (torch.float32, to, to):
        net.to(dtype)
        optimizer.step(closure_of(net, optimizer, torch.randn(12, 6, dtype=dtype), torch.randint(0, 5, (12,))))
    assert optimizer.steps == 3
    moments = [t for state in optimizer.state.values() for key, t in state.items() if key != "step"]
    assert moments
    assert {t.dtype for t in moments} == {to}


class _Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop, self.seen = nn.Linear(6, 5).double(), nn.Dropout(0.5), []

    def forward(self, x):
        kept = self.drop(torch.ones_like(x))
        self.seen.append(kept)
        return self.layer(x * kept)


@pytest.mark.parametrize("same", [True, False])
def test_the_second_pass_may_draw_the_random_numbers_of_the_first(same):
    torch.manual_seed(1)
    net = _Dropping()
    optimizer = SharpnessAware(sgd(net), same_randomness=same)
    x, y = torch.randn(12, 6, dtype=torch.float64), torch.randint(0, 5, (12,))
    for _ in range(2):
        optimizer.step(closure_of(net, optimizer, x, y))
    first, again, next_first, next_again = net.seen
    assert torch.equal(first, again) is same
    assert torch.equal(next_first, next_again) is same
    assert not torch.equal(first, next_first)


def test_with_the_same_randomness_random_numbers_go_on_as_after_one_pass():
    def drawn(optimize):
        torch.manual_seed(1)
        net = _Dropping()
        optimizer = optimize(net)
        closure = closure_of(net, optimizer, torch.ones(12, 6, dtype=torch.float64), torch.zeros(12).long())
        optimizer.step(closure)
        return torch.rand(3)

    assert torch.equal(drawn(lambda net: SharpnessAware(sgd(net), same_randomness=True)), drawn(sgd))


def test_a_context_may_surround_the_second_pass():
    net, x, y = NETWORKS["mlp"]()
    inside, passes = [False], []

    @contextlib.contextmanager
    def second():
        inside[0] = True
        yield
        inside[0] = False

    optimizer = SharpnessAware(sgd(net), second_pass=second)

    def closure():
        passes.append((inside[0], optimizer.perturbed))
        return closure_of(net, optimizer, x, y)()

    optimizer.step(closure)
    assert passes == [(False, False), (True, True)]
    assert (inside, optimizer.perturbed) == ([False], False)


SPARSE = {
    "Friendly": lambda net: {"direction": Friendly()},
    "VarianceSuppressed": lambda net: {"direction": VarianceSuppressed()},
    "FisherDiagonal": lambda net: {"probe": FisherDiagonal()},
    "GradientNoise": lambda net: {"probe": GradientNoise()},
    "Adaptive": lambda net: {"probe": Adaptive(net)},
}


@pytest.mark.parametrize("name", list(SPARSE))
def test_parts_that_need_dense_gradients_say_so(name):
    net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 5))
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), model=net, **SPARSE[name](net))
    closure = closure_of(net, optimizer, torch.randint(0, 9, (6, 2)), torch.randint(0, 5, (6,)))
    with pytest.raises(ValueError, match=rf"gradient of 0\.weight is sparse, which {name} cannot use"):
        optimizer.step(closure)
