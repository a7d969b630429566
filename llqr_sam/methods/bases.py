"""Base optimizers by name: ours, those that a plugin registers, and the classes of torch.optim and pytorch_optimizer.

Before any data are read, a class takes a few steps on a small network and is resumed there (``Base.problem``): one that
cannot be trained with here, or would go on differently after an interruption, is refused.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import io
import json
import math
import pickle
import random
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

OWN: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}  # with settings of their own
LIBRARIES = ("torch.optim", "pytorch_optimizer")  # in the order in which a bare name is looked up
MUON = tuple(f"pytorch_optimizer.{name}" for name in ("Muon", "AdaMuon", "AdaGO", "NorMuon", "MuonClip"))
REFUSED = {
    "torch.optim.LBFGS": "evaluates the loss up to 25 times a step and needs the whole data set, not minibatches",
    "pytorch_optimizer.AdaHessian": "differentiates the gradient (create_graph), which the training loop does not keep",
    "pytorch_optimizer.SophiaH": "differentiates the gradient (create_graph), which the training loop does not keep",
    "pytorch_optimizer.DistributedMuon": "takes parameters that are sorted by hand; Muon sorts them itself",
}
EVALUATES = "evaluates the loss itself; wrap one such as SGD, that does not"
_REGISTERED: dict[str, type[Optimizer]] = {}


def register(name: str, kind: type[Optimizer]) -> None:
    """Makes a class of yours a base optimizer: ``optim.base=<name>``.

    Args:
        name: What the configuration calls it.
        kind: A ``torch.optim.Optimizer``, made as ``kind(parameters, lr=..., **arguments)``. Its ``step`` is called
            with a closure, which evaluates the gradient and may be called more than once.

    Raises:
        ValueError: the name is taken, or the class is no optimizer.
    """
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ValueError(f"the optimizer {name} is no subclass of torch.optim.Optimizer.")
    if name in OWN or _REGISTERED.get(name, kind) is not kind:
        raise ValueError(f"the optimizer name {name} is taken. Register {kind.__name__} under another.")
    _REGISTERED[name] = kind


def find(name: str) -> Base:
    """Returns the class of a name that is not one of ``OWN``; a library's class may have the library in front.

    Raises:
        ValueError: there is no such class; the message follows ``optim.base=<name>``.
    """
    if name in _REGISTERED:
        return Base(name, _REGISTERED[name])
    own = next((own for own, kind in OWN.items() if kind.__name__ == name), None)
    if own is not None:
        raise ValueError(f"is {own} here: write {own}, or torch.optim.{name} to give it optim.base_args")
    library, _, short = name.rpartition(".")
    for each in LIBRARIES:
        kind = getattr(_library(each), short, None) if library in ("", each) else None
        if isinstance(kind, type) and issubclass(kind, Optimizer):
            return Base(f"{each}.{short}", kind)
    missing = "" if _library("pytorch_optimizer") else " (which is not installed here: pip install pytorch_optimizer)"
    known = f"Choose from: {', '.join([*OWN, *_REGISTERED])}, or a class of torch.optim or pytorch_optimizer{missing}"
    close = difflib.get_close_matches(short.lower(), by_lower := {each.lower(): each for each in _names()}, n=1)
    raise ValueError(f"is not known. {known}" + (f" (did you mean {by_lower[close[0]]}?)" if close else ""))


def takes(name: str, argument: str) -> bool:
    """Returns whether the class of a name has an argument; an unknown name has none."""
    try:
        return argument in find(name).arguments
    except ValueError:
        return False


def wrapping_problem(kind: type[Optimizer], options: Collection[str]) -> str | None:
    """Returns why an optimizer cannot be the base of a sharpness-aware step: it evaluates the loss, or has a rho."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return EVALUATES
    return "has an option rho of its own, which is no radius; wrap another" if "rho" in options else None


@dataclass(frozen=True)
class Base:
    """An optimizer class and its full name, such as ``pytorch_optimizer.Lion``."""

    name: str
    kind: type[Optimizer]

    @cached_property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """Returns the arguments other than the parameters to train, by name."""
        parameters = inspect.signature(self.kind).parameters
        named = (p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        return {p.name: p for p in named if p.name != "params"}

    def default(self, argument: str) -> Any:
        """Returns the class's default for an argument, ``None`` where it has none."""
        parameter = self.arguments.get(argument)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    def build(self, model: nn.Module, values: Mapping[str, Any], fused: bool | None = None) -> Optimizer:
        """Makes the optimizer of a model's trainable parameters; ``fused`` is for a class that has such an argument."""
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if self.name in MUON:
            family = _library("pytorch_optimizer.optimizer.muon")  # sorts the parameters by what they belong to
            muon: Optimizer = family.prepare_muon_parameters(model, self.kind.__name__, **given)
            return muon
        if "fused" in self.arguments:
            given["fused"] = fused
        make: Any = self.kind
        optimizer: Optimizer = make([p for p in model.parameters() if p.requires_grad], **given)
        return optimizer

    @property
    def required(self) -> set[str]:
        """Returns the arguments without a default."""
        return {name for name, parameter in self.arguments.items() if parameter.default is parameter.empty}

    @property
    def refusal(self) -> str | None:
        """Returns why no arguments make this class one to train with here, if so."""
        if self.name in REFUSED:
            return REFUSED[self.name]
        if self.arguments.keys() & {"optimizer", "base_optimizer"}:
            return "wraps another optimizer, which a name cannot give; optim=sam and the like wrap optim.base"
        if "model" in self.arguments:
            return "is made of a whole model, not of parameters"
        return None if "lr" in self.arguments else "has no argument lr, which the protocol's schedule sets"

    def problem(self, values: Mapping[str, Any], *, wrapped: bool) -> str | None:
        """Returns why one cannot train with these arguments, if so; ``wrapped``: inside a sharpness-aware step."""
        unwrappable = wrapping_problem(self.kind, self.arguments) if wrapped else None
        return unwrappable or _tried(self, json.dumps(dict(values)), wrapped)


def is_plain(value: object) -> bool:
    """Returns whether a value can stand in a configuration and in a record."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    return isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value))


def _library(name: str) -> Any:
    """Returns a library of optimizers, ``None`` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def _names() -> Iterable[str]:
    """Every name that a user may have meant."""
    yield from (*OWN, *_REGISTERED)
    for library in filter(None, map(_library, LIBRARIES)):
        members = vars(library).items()
        yield from (name for name, kind in members if isinstance(kind, type) and issubclass(kind, Optimizer))


@cache
def _tried(base: Base, values: str, wrapped: bool) -> str | None:
    """Trains a small network, and resumes it as a run is resumed; returns what goes wrong, if anything does."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        generators = _other_generators()
        network, inputs = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)), torch.randn(6, 1, 4, 4)
        resumed = deepcopy(network)
        try:
            optimizer, fresh = (base.build(each, json.loads(values)) for each in (network, resumed))
        except Exception as error:  # whatever a class raises at its arguments
            hint = f"; pytorch_optimizer.{base.kind.__name__} may" if base.name == "torch.optim.Muon" else ""
            return f"cannot be made with {values}: {_first_line(error)}{hint}"
        try:
            if not _train(network, optimizer, inputs, wrapped):
                return "does not call the closure that step() is given"
            if not all("lr" in group for group in optimizer.param_groups):
                return "has no lr in its parameter groups, which the protocol's schedule sets"
            if _other_generators() != generators:
                return "draws random numbers of Python or NumPy, which a run neither seeds nor saves"
            saved = _saved([network.state_dict(), optimizer.state_dict(), torch.get_rng_state()])
            if saved is None:
                return "keeps more in its state than tensors, numbers and text, and a checkpoint holds nothing else"
            _train(network, optimizer, inputs, wrapped)
            resumed.load_state_dict(saved[0])
            fresh.load_state_dict(saved[1])
            torch.set_rng_state(saved[2])
            _train(resumed, fresh, inputs, wrapped)
        except Exception as error:  # whatever a class raises in a step
            return f"cannot train a small network: {_first_line(error)}"
        pairs = zip(network.parameters(), resumed.parameters(), strict=True)
        same = all(torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) for one, other in pairs)
        return None if same else "goes on differently after an interruption: its state_dict() leaves something out"


def _other_generators() -> tuple[object, ...]:
    """The states of Python's random numbers and, where NumPy is loaded, of its global ones."""
    numpy = sys.modules.get("numpy")
    found = () if numpy is None else numpy.random.get_state()
    return (random.getstate(), *(part.tobytes() if hasattr(part, "tobytes") else part for part in found))


def _train(network: nn.Module, optimizer: Optimizer, inputs: Tensor, wrapped: bool, steps: int = 3) -> int:
    """Takes steps with a closure, or inside a sharpness-aware step without; returns how often there was a gradient."""
    evaluations = 0

    def closure() -> Any:
        nonlocal evaluations
        evaluations += 1
        with torch.enable_grad():
            optimizer.zero_grad()
            loss = network(inputs).square().mean()
            torch.autograd.backward(loss)
        return loss.detach()

    getattr(optimizer, "train", lambda: None)()
    for _ in range(steps):
        if wrapped:
            closure()
            optimizer.step()
        else:
            optimizer.step(closure)
    return evaluations


def _saved(state: Any) -> Any:
    """Returns a state as a checkpoint gives it back, ``None`` where it holds what a checkpoint refuses."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    except (pickle.PickleError, AttributeError):  # AttributeError: of a function without a name
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
