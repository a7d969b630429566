"""The settings of a method. Each is declared once, with its rule, in a frozen object that checks itself.

conf/optim/*.yaml writes flat keys and ``MethodSettings`` nests them: optim.lr is base.lr, and optim.fisher_eta is
sam.probe.eta where optim.probe=fisher. A class of the library (``Friendly``) has the defaults, and its checks are here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from llqr_sam.methods import bases
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.curvature.likelihoods import LikelihoodName
from llqr_sam.methods.curvature.products import Divergence, Reduction


class SettingError(ValueError):
    """A setting has an impossible value: ``<key>=<value> <problem>``."""

    def __init__(self, key: str, value: object, problem: str) -> None:
        super().__init__(key, value, problem)
        self.key, self.value, self.problem = key, value, problem

    def __str__(self) -> str:
        value = list(self.value) if isinstance(self.value, tuple) else "null" if self.value is None else self.value
        return f"{self.key}={value} {self.problem}."


def require(holds: bool, key: str, value: object, problem: str) -> None:
    """Raises SettingError unless ``holds``."""
    if not holds:
        raise SettingError(key, value, problem)


@dataclass(frozen=True)
class Rule:
    """What a value must be: the problem if it is not, and the test."""

    problem: str
    holds: Callable[[Any], bool]

    def fits(self, value: object) -> bool:
        """Whether a value is right; one of another type, such as text for a number, is not."""
        try:
            return self.holds(value)
        except TypeError:
            return False


Positive = Annotated[float, Rule("must be > 0", lambda x: x > 0)]
NotNegative = Annotated[float, Rule("must be >= 0", lambda x: x >= 0)]
Fraction = Annotated[float, Rule("must be in [0, 1)", lambda x: 0 <= x < 1)]
Share = Annotated[float, Rule("must be in (0, 1]", lambda x: 0 < x <= 1)]
Count = Annotated[int, Rule("must be >= 1", lambda n: n >= 1)]
StepNumber = Annotated[int, Rule("must be >= 0", lambda n: n >= 0)]
Betas = Annotated[
    tuple[float, ...],
    Rule("must be two numbers in [0, 1)", lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas)),
]

_BASE_KEYS = ("weight_decay", "momentum", "betas", "base_args")  # that not every base has
ANY = "*"  # kind of the alternative that stands for every other name, and has a field for it
Norm = Literal["metric", "euclidean"]
BatchNormPass = Literal["perturbed", "clean"]
FisherForm = Literal["authors", "kim"]


@dataclass(frozen=True)
class Settings:
    """Base of all settings: an object with a value that breaks its annotation's rule cannot be made."""

    section: ClassVar[str] = ""  # in front of the names in messages: "protocol."
    kind: ClassVar[str] = ""  # value of the key that selects this class among alternatives: optim.probe=fisher
    prefix: ClassVar[str] = ""  # in front of the names in the keys: fisher_

    def __init_subclass__(cls, kind: str = "", prefix: str = "") -> None:
        cls.kind, cls.prefix = kind, prefix

    def __post_init__(self) -> None:
        """Raises SettingError where a value breaks its rule."""
        for field in fields(self):
            self.check(field.name, getattr(self, field.name))

    @classmethod
    def check(cls, name: str, value: object) -> None:
        """Raises SettingError where a value breaks the rule of the field ``name``."""
        hint = _hints(cls, include_extras=True)[name]
        rule = None if value is None and NoneType in get_args(hint) else _rule(hint)
        if rule is not None:
            finite = not isinstance(value, float) or math.isfinite(value)
            problem = rule.problem if finite else f"{rule.problem} and finite"
            require(finite and rule.fits(value), cls.section + name, value, problem)

    def require(self, name: str, holds: bool, problem: str) -> None:
        """Raises SettingError for a field, unless ``holds``; for rules that involve other fields."""
        require(holds, self.section + name, getattr(self, name), problem)

    @classmethod
    def key_types(cls) -> dict[str, Any]:
        """Returns the flat keys and the type of each, without rules: str, int, float, bool or a list of one of them."""
        types: dict[str, Any] = {}
        hints = _hints(cls)
        for field in fields(cls):
            parts = _parts(hints[field.name])
            if not parts or parts[0].kind:
                types[field.name] = str if parts else _plain(hints[field.name])
            for part in parts:
                types |= {part.prefix + key: type_ for key, type_ in part.key_types().items()}
        return types

    def as_keys(self) -> dict[str, Any]:
        """Returns flat key -> value, without the keys that are not in use; tuples as lists."""
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Settings):
                values |= {field.name: value.kind} if value.kind else {}
                values |= {value.prefix + key: each for key, each in value.as_keys().items()}
            elif value is not None:
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values


# The base optimizer: heavy-ball SGD, Adam (arXiv 1412.6980), and Adam with decoupled weight decay (arXiv 1711.05101).
@dataclass(frozen=True)
class SGDSettings(Settings, kind="sgd"):
    lr: Positive
    weight_decay: NotNegative
    momentum: Fraction


@dataclass(frozen=True)
class AdamSettings(Settings, kind="adam"):
    lr: Positive
    weight_decay: NotNegative
    betas: Betas


@dataclass(frozen=True)
class AdamWSettings(AdamSettings, kind="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""


@dataclass(frozen=True)
class NamedBaseSettings(Settings, kind=ANY):
    """Any other optimizer class by name (bases.py). What is ``None`` becomes the class's default, if it has one."""

    base: str  # full name: pytorch_optimizer.Lion
    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    base_args: dict[str, Any] | None = None  # its further arguments; lists for tuples

    def __post_init__(self) -> None:
        """Checks the arguments, by the class's signature and by a small training; raises ``SettingError``."""
        super().__post_init__()
        try:
            found = bases.find(self.base)
        except ValueError as error:
            raise SettingError("base", self.base, str(error)) from None
        self.require("base", found.refusal is None, found.refusal or "")
        object.__setattr__(self, "base", found.name)  # one text for each class, since it is in the run's id
        for name in ("lr", "weight_decay"):
            value, default = getattr(self, name), found.default(name)
            require(value is None or name in found.arguments, name, value, f"is no argument of {found.name}")
            if value is None and default is not None:
                object.__setattr__(self, name, float(default))
        self.require("lr", self.lr is not None, f"must be set: {found.name} has no default for it")
        self._check_base_args(found)
        self.require_trainable(wrapped=False)

    def require_trainable(self, *, wrapped: bool) -> None:
        """Raises SettingError where this base cannot be trained with; ``wrapped``: inside a sharpness-aware step."""
        problem = bases.find(self.base).problem(self.arguments, wrapped=wrapped)
        self.require("base", problem is None, problem or "")

    @property
    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of the class."""
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        return {name: value for name, value in given.items() if value is not None} | (self.base_args or {})

    def _check_base_args(self, found: bases.Base) -> None:
        elsewhere = {"lr": "optim.lr", "weight_decay": "optim.weight_decay", "fused": "precision.fused"}
        known = ", ".join(name for name in found.arguments if name not in elsewhere)
        for name, value in (self.base_args or {}).items():
            key = f"base_args.{name}"
            require(name not in elsewhere, key, value, f"is written {elsewhere.get(name)}=")
            require(name in found.arguments, key, value, f"is no argument of {found.name}. It has: {known}")
            require(bases.is_plain(value), key, value, "must be a finite number, text, true, false or a list of these")
        for name in sorted(found.required - self.arguments.keys()):
            raise SettingError(f"base_args.{name}", None, f"must be set: {found.name} has no default for it")


# The sharpness-aware step: eps = rho M v / norm(v), v = direction(g).
@dataclass(frozen=True)
class Perturbation(Settings):
    """How far a sharpness-aware step perturbs, when, and what batch-norm sees of it."""

    rho: NotNegative  # radius
    norm: Norm  # metric: sqrt(v' M v) (paper, eq. 1) | euclidean: |M v| (authors' code)
    start_step: StepNumber  # first step that perturbs
    batch_norm: BatchNormPass  # pass from which running statistics are taken; the authors' code: perturbed

    def radii(self, groups: Iterable[Mapping[str, Any]], step: int) -> list[float]:
        """Returns the radius of each parameter group in a step, negative where the base maximizes."""
        radii = []
        for group in groups:
            radius = group.get("rho", self.rho)  # the base may have loaded a state without one
            self.check("rho", radius)
            radii.append(-radius if group.get("maximize") else radius)
        return radii if step >= self.start_step else [0.0] * len(radii)


@dataclass(frozen=True)
class GradientSettings(Settings, kind="gradient"):
    """Direction: the minibatch gradient."""


@dataclass(frozen=True)
class FriendlySettings(Settings, kind="friendly", prefix="friendly_"):
    sigma: NotNegative
    decay: Fraction  # lambda


@dataclass(frozen=True)
class VarianceSuppressedSettings(Settings, kind="variance_suppressed", prefix="vasso_"):
    theta: Share


@dataclass(frozen=True)
class IdentitySettings(Settings, kind="identity"):
    """The identity, as a probe or a transport."""


@dataclass(frozen=True)
class FisherSettings(Settings, kind="fisher", prefix="fisher_"):
    eta: Positive
    form: FisherForm


@dataclass(frozen=True)
class AdaptiveSettings(Settings, kind="adaptive", prefix="asam_"):
    eta: NotNegative


@dataclass(frozen=True)
class NoiseSettings(Settings, kind="noise", prefix="noise_"):
    decay: Fraction
    delta: Positive


@dataclass(frozen=True)
class LearningSettings(Settings):
    """How ``LLQR`` learns the metric U (LLQR paper, Algorithm 2)."""

    divergence: Divergence
    structure: Structure
    inner_steps: Count  # T
    inner_lr: Positive  # alpha
    inner_momentum: Fraction
    clip_norm: Positive
    ema: Fraction  # beta
    damping: NotNegative  # lambda
    interval: Count  # steps between two refreshes
    reduction: Reduction


@dataclass(frozen=True)
class LLQRSettings(LearningSettings, kind="llqr"):
    """The learned metric U, as a probe, a transport or both."""

    likelihood: LikelihoodName
    refresh_batch: Count  # samples of the minibatch that a refresh is given


@dataclass(frozen=True)
class SAMSettings(Settings):
    """A sharpness-aware step: the metric it is measured in, how far it perturbs, and along what."""

    probe: IdentitySettings | FisherSettings | AdaptiveSettings | NoiseSettings | LLQRSettings
    perturbation: Perturbation
    direction: GradientSettings | FriendlySettings | VarianceSuppressedSettings


@dataclass(frozen=True)
class MethodSettings(Settings):
    """One method: update = base(T g~), g~ the gradient at the perturbed point."""

    name: Annotated[str, Rule("must be letters, digits, _, . and -", re.compile(r"[\w.-]+").fullmatch)]
    base: SGDSettings | AdamSettings | AdamWSettings | NamedBaseSettings
    sam: SAMSettings | None = None  # None: nothing is perturbed
    transport: IdentitySettings | LLQRSettings = IdentitySettings()

    def __post_init__(self) -> None:
        """Checks that the base works in this method; raises ``SettingError``."""
        super().__post_init__()
        if isinstance(self.base, NamedBaseSettings):
            self.base.require_trainable(wrapped=self.sam is not None or self.llqr is not None)

    @property
    def llqr(self) -> LLQRSettings | None:
        """Returns the settings of the learned metric, ``None`` where the method learns none."""
        parts = (self.transport, self.sam and self.sam.probe)
        return next((part for part in parts if isinstance(part, LLQRSettings)), None)

    @property
    def divergence(self) -> str | None:
        """Returns the divergence that the learned metric comes from, ``None`` where the method learns none."""
        return self.llqr.divergence if self.llqr else None

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any]) -> MethodSettings:
        """Inverse of ``as_keys``; ``None`` is the same as no key.

        Raises:
            ValueError: a value is impossible, a key is missing, or one is set that this method has no use for. The
                message names ``optim.<key>``, the value and what would be right.
        """
        given = {key: tuple(x) if isinstance(x, list) else x for key, x in keys.items() if x not in (None, {})}
        method: MethodSettings = _read(cls, given)
        own = method.as_keys()
        for key in (key for key in given if key not in own):
            of, why = f"optim={method.name}", "which does not use it"
            if key in _BASE_KEYS:
                of, named = f"optim.base={own['base']}", isinstance(method.base, NamedBaseSettings)
                why = "whose arguments are in optim.base_args" if named else "which has no such argument here"
            raise ValueError(f"optim.{key}={keys[key]} has no meaning for {of}, {why}.")
        return method


def _read(kind: type[Settings], keys: Mapping[str, Any]) -> Any:
    """Makes a ``kind`` from the keys that are its own, with the parts inside it."""
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):
        parts, key = _parts(hints[field.name]), kind.prefix + field.name
        if parts and not parts[0].kind:  # a part without alternatives, absent where its first key is
            if field.default is MISSING or fields(parts[0])[0].name in keys:
                values[field.name] = _read(parts[0], keys)
        elif key in keys and parts:
            by_kind = {part.kind: part for part in parts}
            chosen = by_kind.get(keys[key], by_kind.get(ANY))
            if chosen is None:
                raise SettingError(f"optim.{key}", keys[key], f"is not known. Choose from: {', '.join(by_kind)}")
            values[field.name] = _read(chosen, keys)
        elif key in keys:
            values[field.name] = keys[key]
        elif field.default is MISSING:
            raise ValueError(f"optim.{key} is missing, and optim={keys.get('name')} needs it.")
    try:
        return kind(**values)
    except SettingError as error:
        raise SettingError(f"optim.{kind.prefix}{error.key}", error.value, error.problem) from None


_hints: Any = cache(get_type_hints)


@cache
def _rule(hint: Any) -> Rule | None:
    """Reads the rule from an annotation, if it has one."""
    option = _options(hint)[0]
    if get_origin(option) is Literal:
        choices = get_args(option)
        return Rule(f"is not known. Choose from: {', '.join(choices)}", choices.__contains__)
    rule: Rule | None = getattr(option, "__metadata__", (None,))[0]
    return rule


def _options(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union other than ``None``; any other hint by itself."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(option for option in options if option is not NoneType)


def _parts(hint: Any) -> tuple[type[Settings], ...]:
    """Returns the settings classes that an annotation allows."""
    return tuple(option for option in _options(hint) if isinstance(option, type) and issubclass(option, Settings))


def _plain(hint: Any) -> Any:
    """Returns the type of a value as YAML knows it."""
    (option,) = _options(hint)
    if get_origin(option) is Literal:
        return str
    return list[get_args(option)[0]] if get_origin(option) is tuple else option  # type: ignore[misc]
