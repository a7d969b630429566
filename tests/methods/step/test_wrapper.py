"""The optimizer around another: bases with weights of two kinds, and the arguments of other libraries."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam import SharpnessAware
from tests.methods.networks import NETWORKS
from tests.methods.training import closure_of, identical, sgd


def _schedule_free(net):
    return pytest.importorskip("pytorch_optimizer").ScheduleFreeSGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_a_schedule_free_base_is_told_to_train_and_to_evaluate(rho):
    """With rho = 0 the weights of both modes are the base's own."""

    def train(wrap):
        torch.manual_seed(4)
        net, x, y = NETWORKS["mlp"]()
        base = _schedule_free(net)
        optimizer = SharpnessAware(base, rho=rho) if wrap else base
        optimizer.train()
        for _ in range(5):
            optimizer.step(closure_of(net, optimizer, x, y))
        trained = {n: p.clone() for n, p in net.state_dict().items()}
        optimizer.eval()
        return trained, net.state_dict()

    trained, evaluated = train(True)
    assert not torch.equal(trained["0.weight"], evaluated["0.weight"])
    judge_trained, judge_evaluated = train(False)
    assert identical(trained, judge_trained) == identical(evaluated, judge_evaluated) == (rho == 0)


def test_other_bases_need_not_be_told():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    optimizer.train()
    optimizer.step(closure_of(net, optimizer, x, y))
    optimizer.eval()
    assert optimizer.steps == 1


def test_a_base_with_a_rho_of_its_own_is_refused():
    with pytest.raises(ValueError, match="base=Adadelta has an option rho of its own, which is no radius"):
        SharpnessAware(torch.optim.Adadelta(nn.Linear(2, 2).parameters()), rho=0.05)


def test_a_base_that_is_wrapped_again_has_the_new_radius():
    """But for groups with a radius that the user gave."""
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    base = torch.optim.SGD([{"params": one.parameters()}, {"params": two.parameters(), "rho": 0.0}], lr=0.1)
    SharpnessAware(base, rho=0.05)
    assert [group["rho"] for group in SharpnessAware(base, rho=0.2).param_groups] == [0.2, 0.0]


@pytest.mark.parametrize(("rho", "said"), [(None, "null"), ("0.1", "0.1")])
def test_a_radius_of_another_type_is_a_sentence(rho, said):
    with pytest.raises(ValueError, match=rf"^rho={said} must be >= 0\.$"):
        SharpnessAware(sgd(nn.Linear(2, 2)), rho=rho)


OLD_FORMS = {
    "parameters": (lambda net: SharpnessAware(net.parameters()), "not a generator"),
    "list": (lambda net: SharpnessAware(list(net.parameters()), rho=0.1), "not a list"),
    "class": (lambda net: SharpnessAware(torch.optim.SGD), "not the class SGD"),
    "both": (
        lambda net: SharpnessAware(net.parameters(), torch.optim.SGD, lr=0.1, rho=0.1),
        "not a generator, the class SGD",
    ),
    "base=": (lambda net: SharpnessAware(base=net.parameters()), "not a generator"),
    "keywords": (lambda net: SharpnessAware(net.parameters(), base_optimizer=torch.optim.SGD, lr=0.1), "a generator"),
}


@pytest.mark.parametrize("form", list(OLD_FORMS))
def test_other_implementations_arguments_are_refused_in_words(form):
    build, what = OLD_FORMS[form]
    example = "SharpnessAware\\(torch.optim.SGD\\(model.parameters\\(\\), lr=0.1\\)"
    with pytest.raises(TypeError, match=f"{what}: {example}"):
        build(nn.Linear(2, 2))
