"""A pass is one call of the closure. Here is what surrounds it: the gradients before and after it, and its randomness.

Both passes must see the same minibatch and nothing else. A framework that accumulates on its own calls the closure of
the last micro-batch on top of the gradients of the others: that is noticed and refused here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from llqr_sam.methods.named import Named

Context = Callable[[], contextlib.AbstractContextManager[None]]

ACCUMULATED = (
    "the closure adds to gradients that were there before, and the second pass would leave those out. Put all "
    "micro-batches inside the closure, or call backward for each and then first_step() and second_step()"
)
RECORDED = (
    "batch-norm has recorded the first pass, which the two steps cannot undo; "
    'take the statistics from that pass: SharpnessAware(batch_norm="clean").'
)
LIGHTNING = "; in Lightning, with accumulate_grad_batches=1 and manual optimization"
WAYS_OUT = {
    "lightning": LIGHTNING,
    "pytorch_lightning": LIGHTNING,
    "accelerate": "; with accelerate, use llqr_sam.integrations.accelerate",
    "transformers": "; with Trainer, use llqr_sam.integrations.transformers",
}


def evaluated(closure: Callable[[], Any]) -> Any:
    """Returns what the closure returns, called where gradients are recorded."""
    with torch.enable_grad():
        return closure()


def entered(context: Context | None) -> contextlib.AbstractContextManager[None]:
    """Returns the user's context for a pass, or one that does nothing."""
    return context() if context else contextlib.nullcontext()


class Gradients:
    """The ``.grad`` of some parameters from step to step: what a step left there, and what somebody else put there."""

    def __init__(self) -> None:
        self._parameters: Sequence[Tensor] = ()
        self._left: tuple[Tensor, Tensor, int] | None = None  # a parameter, its gradient and the gradient's version

    def of(self, parameters: Sequence[Tensor]) -> None:
        """Looks at these parameters from now on."""
        self._parameters = parameters

    def leave(self) -> None:
        """Remembers the present gradients as those that a step has used, by the first: whoever clears, clears all."""
        present = ((p, p.grad) for p in self._parameters)
        self._left = next(((p, g, g._version) for p, g in present if g is not None), None)

    def clear(self) -> None:
        """Removes all gradients."""
        for p in self._parameters:
            p.grad = None

    def used(self) -> bool:
        """Whether the gradients are those that the last step left."""
        if self._left is None:
            return False
        p, gradient, version = self._left
        return p.grad is gradient and gradient._version == version

    def clear_used(self) -> None:
        """Removes what the last step left; what a framework has accumulated since then stays."""
        if self.used():
            self.clear()

    @contextlib.contextmanager
    def cleared(self) -> Iterator[None]:
        """Context of a pass that starts without gradients; RuntimeError where the closure means to add to older ones.

        One gradient of somebody else's stays, filled with NaN: a closure that clears it leaves no NaN.
        """
        older: list[Tensor | None] = [] if self.used() else [p.grad for p in self._parameters]
        self.clear()
        marked = next((i for i, g in enumerate(older) if g is not None and not g.is_sparse and bool(g.any())), None)
        if marked is not None:
            self._parameters[marked].grad = torch.full_like(older[marked], float("nan"))  # type: ignore[arg-type]
        try:
            yield
            found = None if marked is None else self._parameters[marked].grad
            if found is not None and bool(found.isnan().all()):
                raise RuntimeError(f"{ACCUMULATED}{way_out()}.")
        except BaseException:
            for p, gradient in zip(self._parameters, older, strict=False):  # there may be none
                p.grad = gradient
            raise


def require_some(gradients: Named, whose: str) -> None:
    """Raises RuntimeError where a pass has left no gradient at all."""
    if not gradients:
        raise RuntimeError(f"{whose} left no gradient: it must call backward() on a loss of the base's parameters.")


def require_still(groups: Iterable[dict[str, Any]], gradients: Named) -> None:
    """Raises TypeError unless all gradients and learning rates are 0, as ``torch.distributed.checkpoint`` sets them."""
    if not gradients or any(group.get("lr", 1) for group in groups) or any(bool(g.any()) for g in gradients.values()):
        raise TypeError(
            "step() needs a closure that calls backward and returns the loss; in a loop without closures, call "
            f"first_step() and second_step(){way_out()}."
        )


@contextlib.contextmanager
def guarded(model: Any) -> Iterator[None]:
    """Context in which a network, if there is one, has perturbed weights: it is not saved, loaded or evaluated."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("the weights are perturbed between first_step() and second_step(); use them afterwards.")

    def refuse_evaluation(*_: Any) -> None:
        if not model.training and not torch.is_grad_enabled():  # in training mode it may belong to the loss
            refuse()

    hooks: list[Any] = []
    if model is not None:
        hooks = [model.register_state_dict_pre_hook(refuse), model.register_load_state_dict_pre_hook(refuse)]
        hooks.append(model.register_forward_pre_hook(refuse_evaluation))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Randomness:
    """State of the generators that a pass draws from: the CPU's, and those of the parameters' devices."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._devices = {p.device for p in parameters if p.device.type not in ("cpu", "meta")}
        self._cpu = torch.get_rng_state()
        self._states = {d: torch.get_device_module(d).get_rng_state(d) for d in self._devices}

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Context in which the generators start again from this state; afterwards they go on from where they were."""
        now = Randomness([torch.empty(0, device=d) for d in self._devices])
        self._set()
        try:
            yield
        finally:
            now._set()

    def _set(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._states.items():
            torch.get_device_module(device).set_rng_state(state, device)


def require_whole_step() -> None:
    """Raises RuntimeError where accelerate accumulates: it skips this step but for the last micro-batch's closure."""
    accelerate = sys.modules.get("accelerate.state")
    if accelerate is not None and "accelerate.optimizer" in _callers():
        batches = accelerate.GradientState().num_steps
        if batches > 1:
            raise RuntimeError(
                f"accelerate accumulates {batches} micro-batches and calls this step with the last one's closure "
                "alone; use llqr_sam.integrations.accelerate, which steps over all of them."
            )


def way_out() -> str:
    """Returns what the framework that called this step offers instead; empty where there is none."""
    packages = [name.split(".")[0] for name in _callers()]
    return next((WAYS_OUT[package] for package in packages if package in WAYS_OUT), "")


def _callers() -> Iterator[str]:
    """The modules on the call stack, innermost first."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back
