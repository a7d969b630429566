"""An optimizer around another: parameter groups, state and everything else but the step are the inner one's."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor
from torch.optim import Optimizer

from llqr_sam.methods.bases import EVALUATES, wrapping_problem
from llqr_sam.methods.settings import Perturbation


class Wrapper(Optimizer):
    """An optimizer that shares the groups and the state of ``base``, whoever changes them.

    Args:
        base: The inner optimizer.
        defaults: Options of a group beyond the base's own.

    Raises:
        TypeError: base is no optimizer.
        ValueError: base evaluates the loss itself.
    """

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Refuses the arguments of other implementations of SAM, in words."""
        given = arguments or ((options["base"],) if "base" in options else ())
        if given and (len(given) > 1 or not isinstance(given[0], Optimizer)):
            raise TypeError(
                f"{cls.__name__} takes one optimizer, not {', '.join(map(_described, given))}: "
                f"{cls.__name__}(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)."
            )
        return super().__new__(cls)

    def __init__(self, base: Optimizer, defaults: dict[str, Any]) -> None:
        _require_plain(base)
        super().__init__(base.param_groups, {**base.defaults, **defaults})
        self.base = base

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Returns the base's parameter groups: both optimizers share one list."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if "base" in vars(self):  # torch's constructor starts every optimizer with none
            self.base.param_groups = groups

    @property  # type: ignore[override]
    def state(self) -> dict[Tensor, Any]:
        """Returns the base's state: parameter -> dict."""
        return self.base.state

    @state.setter
    def state(self, state: dict[Tensor, Any]) -> None:
        if "base" in vars(self):
            self.base.state = state  # type: ignore[assignment]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def train(self) -> None:
        """Calls the base's ``train``, if it has one (ScheduleFree bases do)."""
        getattr(self.base, "train", lambda: None)()

    def eval(self) -> None:
        """Calls the base's ``eval``, if it has one."""
        getattr(self.base, "eval", lambda: None)()


def _described(argument: Any) -> str:
    """Returns the name of a class, or of an object's class."""
    return f"the class {argument.__name__}" if isinstance(argument, type) else f"a {type(argument).__name__}"


def share_radius(base: Optimizer, rho: float) -> None:
    """Gives each group of the base a rho, unless the user has; one of an earlier wrapper around the base goes."""
    earlier = vars(base).get("_rho_of_wrapper")
    for group in base.param_groups:
        if group.get("rho", earlier) == earlier:
            group["rho"] = rho
        Perturbation.check("rho", group["rho"])
    base._rho_of_wrapper = rho  # type: ignore[attr-defined]


def _require_plain(base: Optimizer) -> None:
    """Refuses a base that evaluates the loss at points of its own, or has an option named rho."""
    problem = EVALUATES if isinstance(base, Wrapper) else wrapping_problem(type(base), base.defaults)
    if problem is not None:
        raise ValueError(f"base={type(base).__name__} {problem}.")
