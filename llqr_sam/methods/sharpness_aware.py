"""The sharpness-aware step: perturb, evaluate again, restore, transport, and let the base optimizer move.

    g      = gradient at theta on this minibatch
    v      = direction(g)
    eps    = rho * M v / norm(v)          probe metric M
    g~     = gradient at theta + eps      same minibatch
    update = base(T g~)                   transport T

Momentum and weight decay belong to the base optimizer, which sees T g~ as its gradient (docs/methods.md, section 1.1).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from llqr_sam.methods.batch_norm import frozen_statistics
from llqr_sam.methods.directions import Direction
from llqr_sam.methods.distributed import unwrapped
from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.named import Named, alike
from llqr_sam.methods.settings import BatchNormPass, Norm, Perturbation

UNSCALED = GradScaler("cpu", enabled=False)
Context = Callable[[], contextlib.AbstractContextManager[None]]
Groups = list[tuple[float, dict[str, Tensor]]]  # for each parameter group: its rho, and name -> parameter


class SharpnessAware(Optimizer):
    """A base optimizer whose gradient is taken at a perturbed point, and transported (paper, eq. 1).

        SharpnessAware(sgd, rho=0.2)                                   SAM
        SharpnessAware(sgd, rho=0.2, direction=Friendly(decay=0.6))    F-SAM
        SharpnessAware(sgd, rho=0.2, probe=llqr, transport=llqr)       LLQR+SAM
        SharpnessAware(sgd, rho=0.0, transport=llqr)                   LLQR

    A hook on the base, ``base.register_step_pre_hook``, sees the final gradients in ``.grad`` and may clip them.

    Args:
        base: Optimizer that moves the parameters. Its parameter groups are shared, so learning-rate schedulers work on
            either.
        rho: Radius of the perturbation, >= 0; 0 leaves the base optimizer and the transport. Each parameter group may
            have its own ``rho``.
        probe: Metric of the perturbation; ``None`` is the identity.
        direction: Ascent direction; ``None`` is the minibatch gradient.
        transport: Metric that maps the gradient before the base optimizer sees it; ``None`` is the identity.
        norm: "metric", eps = rho M v / sqrt(v' M v) (paper, eq. 1), or "euclidean", eps = rho M v / |M v| (authors'
            code). Default: the probe's own, which is "metric" except in ``GradientNoise``.
        start_step: First step that perturbs, >= 0.
        batch_norm: Pass from which batch-norm takes running statistics: "perturbed" (authors' code) or "clean".
        model: Network that is trained, to name its parameters and find its batch-norm layers. Needed only where no
            metric has one and the model is compiled.
        first_pass: Context around the first of two passes. Under ``DistributedDataParallel`` all workers share one
            perturbation by default; with ``ddp.no_sync`` each has its own (m-sharpness), and the weights stay equal.

    Raises:
        ValueError: rho, start_step, norm or batch_norm is out of its range or choices, the base evaluates the loss
            itself, the metrics belong to different models, or ``first_pass`` is given with a sharded probe.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model, loss_fn = torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss()
        >>> inputs, targets = torch.randn(8, 4), torch.randint(3, (8,))
        >>> optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.5), rho=0.1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = loss_fn(model(inputs), targets)
        ...     loss.backward()
        ...     return loss
        >>> losses = [optimizer.step(closure).item() for _ in range(20)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        probe: Metric | None = None,
        direction: Direction | None = None,
        transport: Metric | None = None,
        norm: Norm | None = None,
        start_step: int = 0,
        batch_norm: BatchNormPass = "perturbed",
        model: nn.Module | None = None,
        first_pass: Context | None = None,
    ) -> None:
        _require_plain(base)
        self.probe = probe or Metric()
        self.perturbation = Perturbation(rho, self.probe.norm if norm is None else norm, start_step, batch_norm)
        super().__init__(base.param_groups, {**base.defaults, "rho": rho})
        self.base = base
        for group in base.param_groups:
            Perturbation.check("rho", group.setdefault("rho", rho))
        self.direction = direction or Direction()
        self.transport = transport or Metric()
        if first_pass is not None and self.probe.sharded:
            raise ValueError("first_pass= gives each worker a perturbation; a probe with shard=True has one for all.")
        self.first_pass = first_pass
        self.model = _one_model(model, self.probe.model, self.transport.model)
        self.steps = 0
        self._saved: dict[Tensor, Tensor] = {}
        self._statistics: dict[Tensor, Tensor] = {}

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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, scaler: GradScaler = UNSCALED) -> Any:
        """Takes one step on one minibatch.

        Args:
            closure: Clears the gradients, evaluates the loss on the minibatch, calls backward and returns the loss. It
                is called twice, or once where nothing is perturbed. Gradient accumulation goes inside it.
            scaler: For float16: the closure calls ``scaler.scale(loss).backward()``, and the caller
                ``scaler.update()`` after the step. An overflow in either pass skips the step.

        Returns:
            The closure's loss at theta, the unperturbed point.

        Raises:
            TypeError: there is no closure.
            ValueError: a group's rho is negative or not finite, a parameter is complex or not the model's, or, with
                ``first_pass``, the scaler would not tell the workers of each other's overflows.
        """
        if closure is None:
            raise TypeError("step needs a closure that clears the gradients, calls backward and returns the loss.")
        if self.first_pass is not None and scaler.is_enabled() and not hasattr(scaler, "process_group"):
            raise ValueError(
                f"first_pass= may overflow on one worker alone, which a {type(scaler).__name__} keeps from the others; "
                "use torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler."
            )
        evaluate, groups = torch.enable_grad()(closure), self._groups()  # a model may have been given others since
        perturbed = self.steps >= self.perturbation.start_step and any(radius > 0 for radius, _ in groups)
        loss = self._perturbed(evaluate, scaler, groups) if perturbed else evaluate()
        if _unscale(scaler, self.base):
            gradients = _gradients(groups)
            if not perturbed:
                self.transport.observe(gradients)
            self.transport.apply_(gradients)  # in place: a gradient may be a view of a communication bucket
            scaler.step(self.base)
            self.steps += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters to the base optimizer.

        Args:
            param_group: ``{"params": ...}`` and options of the base; ``"rho"`` is this optimizer's by default.
        """
        if "base" in vars(self):  # else torch's constructor, at the base's own groups
            group = {"rho": self.defaults["rho"], **param_group}
            Perturbation.check("rho", group["rho"])
            self.base.add_param_group(group)

    def state_dict(self) -> dict[str, Any]:
        """Returns the base's ``state_dict``, with all else that a resumed run needs under ``"sharpness_aware"``.

        Hooks registered on this optimizer see the whole state, hooks on the base the base's part.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        own = {
            "parts": self._parts(),
            "steps": self.steps,
            "direction": self.direction.state_dict(),
            "probe": self.probe.state_dict(),
            "transport": None if self.transport is self.probe else self.transport.state_dict(),
        }
        state = {**self.base.state_dict(), "sharpness_aware": own}
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state; training continues bit for bit.

        Args:
            state_dict: What ``state_dict`` returned.

        Raises:
            ValueError: the state was not saved by a ``SharpnessAware`` of the same direction, probe and transport, or
                one of these refuses its part; the base is then unchanged.
        """
        state_dict = dict(state_dict)  # which the hooks may change
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        own = state_dict.get("sharpness_aware")
        if own is None:
            raise ValueError("this state was saved by another optimizer: it has no 'sharpness_aware' entry.")
        for part, present in self._parts().items():
            if own["parts"][part] != present:
                raise ValueError(
                    f"the saved state has {part} {own['parts'][part]}, this optimizer {present}; "
                    "load it into one composed as the saved one was."
                )
        self.probe.load_state_dict(own["probe"])
        if own["transport"] is not None:
            self.transport.load_state_dict(own["transport"])
        self.direction.load_state_dict(own["direction"])
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != "sharpness_aware"})
        self.steps = own["steps"]
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for copies and pickles, without hooks (as torch does) and without scratch memory."""
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_optimizer_")}
        kept.pop("step", None)  # a learning-rate scheduler puts one of its own here
        return {**kept, "_saved": {}, "_statistics": {}}

    def _parts(self) -> dict[str, str]:
        """Returns the class names of the parts of this optimizer."""
        transport = "the probe" if self.transport is self.probe else type(self.transport).__name__
        return {"direction": type(self.direction).__name__, "probe": type(self.probe).__name__, "transport": transport}

    def _perturbed(self, evaluate: Callable[[], Any], scaler: GradScaler, groups: Groups) -> Any:
        """Makes both passes; the parameters are at theta when it returns or raises."""
        with self._unless_recording("clean"), (self.first_pass or contextlib.nullcontext)():
            loss = evaluate()
        if not _unscale(scaler, self):
            return loss  # the gradients are not finite, so the caller skips the step too
        perturbation = self._perturbation(groups)
        parameters, kept = list(perturbation), self._saved
        self._saved = {p: kept[p] if p in kept and alike(kept[p], p) else torch.empty_like(p) for p in parameters}
        saved = list(self._saved.values())
        if saved:  # else the second pass still records statistics and averages over the workers
            torch._foreach_copy_(saved, parameters)
        try:
            for radius, named in groups:
                members = [p for p in named.values() if p in perturbation]
                if members:
                    torch._foreach_add_(members, [perturbation[p] for p in members], alpha=radius)
            with self._unless_recording("perturbed"):
                evaluate()
        finally:
            if saved:
                torch._foreach_copy_(parameters, saved)  # copied back, since theta + eps - eps is not theta
        return loss

    def _perturbation(self, groups: Groups) -> dict[Tensor, Tensor]:
        """Returns M v / norm(v) for the parameters with a gradient and a positive rho; one norm over all of them."""
        gradients = _gradients(groups)
        self.transport.observe(gradients)
        probed = {name: p for radius, named in groups if radius > 0 for name, p in named.items() if name in gradients}
        if not probed:
            return {}
        gradients = {name: gradients[name] for name in probed}
        if self.probe is not self.transport:
            self.probe.observe(gradients)
        unit = self.probe.probe(self.direction(gradients), 1.0, self.perturbation.norm)
        return {p: unit[name] for name, p in probed.items()}

    def _groups(self) -> Groups:
        """Returns each group's rho, and its parameters by the model's names or ``group.index`` without a model."""
        groups = self.param_groups
        if self.model is None:
            names = {p: f"{g}.{i}" for g, group in enumerate(groups) for i, p in enumerate(group["params"])}
        else:
            names = {parameter: name for name, parameter in self.model.named_parameters()}
        found: Groups = []
        for group in groups:
            radius = group.get("rho", self.defaults["rho"])  # the base may have loaded a state without one
            Perturbation.check("rho", radius)
            if any(p not in names for p in group["params"]):
                raise ValueError("the base holds a parameter that is not the model's; give it the present ones.")
            if any(p.is_complex() for p in group["params"]):
                raise ValueError("the base holds a complex parameter; this step needs real ones.")
            found.append((radius, {names[p]: p for p in group["params"]}))
        return found

    def _unless_recording(self, batch_norm_pass: BatchNormPass) -> contextlib.AbstractContextManager[None]:
        """Freezes batch-norm statistics in a pass that is not the one they are taken from."""
        if self.perturbation.batch_norm == batch_norm_pass:
            return contextlib.nullcontext()
        return frozen_statistics(self.model, self._statistics)


def _gradients(groups: Groups) -> Named:
    """Returns all gradients by name."""
    return {name: g for _, named in groups for name, p in named.items() if (g := p.grad) is not None}


def _unscale(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Divides the gradients by the loss scale, which a direction must not see; returns whether all are finite."""
    if not scaler.is_enabled():
        return True
    # A record per optimizer and update: the passes name this optimizer and its base, so ``scaler.update()`` sees both.
    scaler.unscale_(optimizer)
    return not any(bool(found) for found in scaler._found_inf_per_device(optimizer).values())


def _require_plain(base: Optimizer) -> None:
    """Refuses a base that needs a closure: it would evaluate the loss at points of its own."""
    closure = inspect.signature(type(base).step).parameters.get("closure")
    needed = closure is not None and closure.default is inspect.Parameter.empty
    if needed or isinstance(base, SharpnessAware):
        raise ValueError(f"base={type(base).__name__} evaluates the loss itself; wrap one such as SGD, that does not.")


def _one_model(given: nn.Module | None, *of_metrics: nn.Module | None) -> nn.Module | None:
    """Returns the model of the metrics, or else the given one; all must be the same."""
    known = [unwrapped(model) for model in (*of_metrics, given) if model is not None]
    if any(model is not known[0] for model in known):
        raise ValueError("probe, transport and model= belong to different networks.")
    return known[0] if known else None
