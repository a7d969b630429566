"""Base optimizers by name: they are the classes themselves, and what cannot be trained with is refused in words."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from llqr_sam import SharpnessAware
from llqr_sam.methods import bases, factory
from llqr_sam.methods.settings import MethodSettings, NamedBaseSettings, SettingError

TORCH: list[tuple[str, dict[str, Any]]] = [
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("NAdam", {}),
    ("Adagrad", {"lr_decay": 0.01}),
    ("torch.optim.SGD", {"momentum": 0.9, "nesterov": True}),
    ("torch.optim.AdamW", {"amsgrad": True}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("Lion", {"betas": [0.9, 0.99]}),
    ("AdEMAMix", {"alpha": 2.0}),
    ("SOAP", {"precondition_frequency": 2}),
    ("Prodigy", {}),
    ("ScheduleFreeAdamW", {}),
    ("ScheduleFreeSGD", {"momentum": 0.8}),
    ("pytorch_optimizer.Muon", {"ns_steps": 3}),
]
SAM = {"probe": "identity", "norm": "metric", "start_step": 0, "batch_norm": "perturbed", "direction": "gradient"}


class TwiceCalled(Optimizer):
    """A user's whole sharpness-aware optimizer, which no test above knows."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        loss = closure()
        group = self.param_groups[0]
        parameters = [p for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        steps = [p.grad * (group["rho"] / norm) for p in parameters]
        torch._foreach_add_(parameters, steps)
        closure()
        torch._foreach_sub_(parameters, steps)
        torch._foreach_add_(parameters, [p.grad for p in parameters], alpha=-group["lr"])
        return loss


class Forgetful(SGD):
    """Keeps a number of its own that ``state_dict`` does not hold."""

    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        self.param_groups[0]["lr"] = 0.1 / self.calls
        return super().step(closure)


class Deaf(SGD):
    """Does not call the closure."""

    def step(self, closure: Any = None) -> Any:
        return None


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bases, "_REGISTERED", {})
    yield
    bases._tried.cache_clear()


def method(base: str, args: dict[str, Any] | None = None, **keys: Any) -> MethodSettings:
    return MethodSettings.from_keys({"name": "base", "transport": "identity", "base": base, "base_args": args, **keys})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def train(optimizer: Optimizer, model: nn.Module, steps: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    getattr(optimizer, "train", lambda: None)()
    for _ in range(steps):
        inputs, targets = torch.randn(6, 1, 4, 4, generator=generator), torch.randint(3, (6,), generator=generator)

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            with torch.enable_grad():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), targets)
                torch.autograd.backward(loss)
            return loss.detach()

        optimizer.step(closure)  # type: ignore[arg-type]
    return [p.detach().clone() for p in model.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize(("name", "args"), TORCH + OTHERS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_named_base_is_the_class_with_these_arguments(name: str, args: dict[str, Any]) -> None:
    """Alone, and inside a sharpness-aware step of radius 0: bit for bit what one builds by hand."""
    if (name, args) in OTHERS:
        pytest.importorskip("pytorch_optimizer")
    short, values = name.rpartition(".")[2], {key: tuple(x) if isinstance(x, list) else x for key, x in args.items()}
    by_hand = network()
    if short == "Muon":
        from pytorch_optimizer.optimizer.muon import prepare_muon_parameters

        plain = prepare_muon_parameters(by_hand, "Muon", lr=0.02, weight_decay=0.0, **values)
    else:
        library = torch.optim if (name, args) in TORCH else sys.modules["pytorch_optimizer"]
        plain = getattr(library, short)(by_hand.parameters(), **values)
    expected, start = train(plain, by_hand), [p.detach().clone() for p in network().parameters()]
    alone, inside = network(), network()
    assert same(train(factory.build(method(name, args), alone).optimizer, alone), expected)
    optimizer = factory.build(method(name, args, rho=0.0, **SAM), inside).optimizer
    assert isinstance(optimizer, SharpnessAware)
    assert type(optimizer.base) is type(plain)
    assert same(train(optimizer, inside), expected)
    assert not same(expected, start)


@pytest.mark.parametrize("base", [name for name, _ in TORCH])
def test_a_perturbed_step_is_taken_around_it(base: str) -> None:
    plain, perturbed = network(), network()
    train(factory.build(method(base), plain).optimizer, plain)
    after = train(factory.build(method(base, rho=0.5, **SAM), perturbed).optimizer, perturbed)
    assert not same(after, [p.detach() for p in plain.parameters()])
    assert all(torch.isfinite(p).all() for p in after)


def test_the_settings_hold_the_full_name_and_the_class_defaults() -> None:
    """So a record says which class it was, and a library that changes its learning rate changes no finished run."""
    settings = method("RMSprop", {"alpha": 0.9})
    assert settings.as_keys() == {
        "name": "base", "base": "torch.optim.RMSprop", "lr": 0.01, "weight_decay": 0.0, "base_args": {"alpha": 0.9},
        "transport": "identity",
    }  # fmt: skip
    assert MethodSettings.from_keys(settings.as_keys()) == settings
    assert method("torch.optim.RMSprop", {"alpha": 0.9}) == settings
    assert method("Rprop").as_keys().keys() == {"name", "base", "lr", "transport"}  # it has no weight decay
    assert method("RMSprop", {}).base == NamedBaseSettings("RMSprop")


def test_fused_is_for_classes_that_have_it() -> None:
    fused = factory.build(method("Adagrad"), network(), fused=False).optimizer
    assert fused.defaults["fused"] is False
    assert "fused" not in factory.build(method("RMSprop"), network(), fused=True).optimizer.defaults


def test_muon_sorts_the_parameters_as_its_library_does() -> None:
    pytest.importorskip("pytorch_optimizer")
    model = network()
    optimizer = factory.build(method("pytorch_optimizer.Muon", lr=0.5), model).optimizer
    matrices, others = optimizer.param_groups
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert (matrices["lr"], others["lr"]) == (0.5, 3e-4)


REFUSED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a near miss": ("rmsprob", {}, ["optim.base=rmsprob is not known", "sgd, adam, adamw", "did you mean RMSprop?"]),
    "another library": ("timm.Lion", {}, ["is not known", "torch.optim or pytorch_optimizer"]),
    "no class": ("Tensor", {}, ["optim.base=Tensor is not known"]),
    "ours": ("AdamW", {}, ["optim.base=AdamW is adamw here: write adamw, or torch.optim.AdamW"]),
    "SGD": ("SGD", {}, ["write sgd"]),
    "the abstract class": ("Optimizer", {}, ["no argument lr"]),
    "LBFGS": ("LBFGS", {}, ["not minibatches"]),
    "sparse gradients": ("SparseAdam", {}, ["does not support dense gradients"]),
    "matrices alone": ("torch.optim.Muon", {}, ["2D parameters", "pytorch_optimizer.Muon may"]),
    "an unknown argument": ("RMSprop", {"beta": 0.9}, ["optim.base_args.beta=0.9 is no argument of", "alpha, eps"]),
    "a value out of range": ("RMSprop", {"alpha": -1.0}, ["optim.base=torch.optim.RMSprop", "alpha value: -1.0"]),
    "a value of another type": ("RMSprop", {"eps": "small"}, ["optim.base=torch.optim.RMSprop"]),
    "no number": ("RMSprop", {"eps": float("inf")}, ["optim.base_args.eps=inf must be a finite number"]),
    "the learning rate": ("RMSprop", {"lr": 1.0}, ["optim.base_args.lr=1.0 is written optim.lr="]),
    "a kernel": ("Adagrad", {"fused": True}, ["is written precision.fused="]),
}


@pytest.mark.parametrize(("name", "args", "phrases"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_used_is_one_sentence(name: str, args: dict[str, Any], phrases: list[str]) -> None:
    if name == "torch.optim.Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has no Muon before 2.9")
    with pytest.raises(SettingError) as caught:
        method(name, args)
    assert "\n" not in str(caught.value)
    assert all(phrase in str(caught.value) for phrase in phrases)


@pytest.mark.parametrize(
    ("name", "phrase"),
    {
        "AdaHessian": "create_graph",
        "SophiaH": "create_graph",
        "Lookahead": "wraps another optimizer",
        "SAM": "wraps another optimizer",
        "LOMO": "a whole model",
        "SCION": "keeps more in its state",
        "SaRA": "optim.lr=null must be set",
        "Ranger21": "optim.base_args.num_iterations=null must be set",
        "lion": "did you mean Lion?",
    }.items(),
)
def test_so_is_what_pytorch_optimizer_has_for_other_loops(name: str, phrase: str) -> None:
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(SettingError, match=phrase.replace("?", r"\?")):
        method(name)


@pytest.mark.parametrize(
    ("keys", "phrase"),
    [
        ({"base": "Rprop", "weight_decay": 0.1}, "optim.weight_decay=0.1 is no argument of torch.optim.Rprop"),
        ({"base": "RMSprop", "lr": 0.0}, "optim.lr=0.0 must be > 0"),
        ({"base": "RMSprop", "momentum": 0.9}, "optim.momentum=0.9 has no meaning for optim.base=torch.optim.RMSprop, "
         "whose arguments are in optim.base_args"),
        ({"base": "sgd", "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "base_args": {"nesterov": True}},
         "has no meaning for optim.base=sgd"),
        ({"base": "Adadelta", "rho": 0.1, **SAM}, "optim.base=torch.optim.Adadelta has an option rho of its own"),
    ],
)  # fmt: skip
def test_keys_that_the_base_does_not_have_are_named(keys: dict[str, Any], phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        MethodSettings.from_keys({"name": "base", "transport": "identity", **keys})


def test_a_library_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(SettingError, match="pip install pytorch_optimizer"):
        method("Lion")
    assert method("RMSprop").as_keys()["base"] == "torch.optim.RMSprop"


def test_an_own_class_may_be_a_whole_sharpness_aware_optimizer() -> None:
    """It is given the closure, as in its author's loop; inside another such step it would perturb twice."""
    bases.register("mysam", TwiceCalled)
    by_hand, named = network(), network()
    expected = train(TwiceCalled(by_hand.parameters(), lr=0.2, rho=0.1), by_hand)
    assert same(train(factory.build(method("mysam", {"rho": 0.1}, lr=0.2), named).optimizer, named), expected)
    with pytest.raises(SettingError, match="optim.base=mysam evaluates the loss itself"):
        method("mysam", rho=0.1, **SAM)


def test_a_name_is_registered_once() -> None:
    bases.register("mine", TwiceCalled)
    bases.register("mine", TwiceCalled)  # a module may be imported twice
    with pytest.raises(ValueError, match="the optimizer name mine is taken"):
        bases.register("mine", Forgetful)
    with pytest.raises(ValueError, match="the optimizer name adamw is taken"):
        bases.register("adamw", Forgetful)
    with pytest.raises(ValueError, match="no subclass of torch.optim.Optimizer"):
        bases.register("net", nn.Linear)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [(Forgetful, "goes on differently after an interruption"), (Deaf, "does not call the closure")],
)
def test_an_own_class_that_breaks_a_promise_is_refused(kind: type[Optimizer], phrase: str) -> None:
    bases.register("mine", kind)
    with pytest.raises(SettingError, match=phrase):
        method("mine", lr=0.1)


@pytest.mark.parametrize("draw", [random.random, np.random.random])
def test_a_class_that_draws_from_other_generators_is_refused(draw: Callable[[], float]) -> None:
    """Whatever it draws: pytorch_optimizer's Kron does something else in one of a hundred steps."""

    class Lucky(SGD):
        def step(self, closure=None):  # type: ignore[no-untyped-def]
            draw()
            return super().step(closure)

    bases.register("mine", Lucky)
    with pytest.raises(SettingError, match="draws random numbers of Python or NumPy"):
        method("mine", lr=0.1)


def test_the_trial_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    method("RMSprop", {"alpha": 0.77})
    assert torch.equal(before, torch.get_rng_state())
