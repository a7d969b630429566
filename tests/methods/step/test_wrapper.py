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


OLD_FORMS = {
    "parameters": (lambda net: SharpnessAware(net.parameters()), "not a generator"),
    "list": (lambda net: SharpnessAware(list(net.parameters()), rho=0.1), "not a list"),
    "class": (lambda net: SharpnessAware(torch.optim.SGD), "not SGD"),
    "both": (lambda net: SharpnessAware(net.parameters(), torch.optim.SGD, lr=0.1, rho=0.1), "not a generator, SGD"),
    "keywords": (lambda net: SharpnessAware(net.parameters(), base_optimizer=torch.optim.SGD, lr=0.1), "a generator"),
}


@pytest.mark.parametrize("form", list(OLD_FORMS))
def test_other_implementations_arguments_are_refused_in_words(form):
    build, what = OLD_FORMS[form]
    with pytest.raises(
        TypeError, match=f"{what}: SharpnessAware\\(torch.optim.SGD\\(model.parameters\\(\\), lr=0.1\\)"
    ):
        build(nn.Linear(2, 2))
