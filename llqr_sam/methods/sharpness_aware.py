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
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from llqr_sam.methods.directions import Direction
from llqr_sam.methods.distributed import one_model, require_dynamic_graph
from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.named import Named
from llqr_sam.methods.settings import BatchNormPass, Norm, Perturbation
from llqr_sam.methods.step.batch_norm import compilations, frozen_statistics, records, require_seen
from llqr_sam.methods.step.checkpoints import packed, unpacked
from llqr_sam.methods.step.composition import Composition, without_tensors
from llqr_sam.methods.step.passes import (
    RECORDED,
    Context,
    Randomness,
    entered,
    evaluated,
    guarded,
    require_some,
    require_still,
    require_whole_step,
)
from llqr_sam.methods.step.progress import Progress
from llqr_sam.methods.step.scaling import UNSCALED, require_no_hidden_scale, require_shared_overflow, unscale
from llqr_sam.methods.step.trained import Perturbed, Trained
from llqr_sam.methods.step.wrapper import Wrapper, share_radius


class SharpnessAware(Wrapper):
    """A base optimizer whose gradient is taken at a perturbed point, and transported (paper, eq. 1).

        SharpnessAware(sgd, rho=0.2)                                   SAM
        SharpnessAware(sgd, rho=0.2, direction=Friendly(decay=0.6))    F-SAM
        SharpnessAware(sgd, rho=0.2, probe=llqr, transport=llqr)       LLQR+SAM
        SharpnessAware(sgd, rho=0.0, transport=llqr)                   LLQR

    A hook on the base, ``base.register_step_pre_hook``, sees the final gradients in ``.grad`` and may clip them.

    Args:
        base: Optimizer that moves the parameters. Its parameter groups are shared, so learning-rate schedulers work on
            either. In a group with ``maximize=True`` the perturbation descends, as the base ascends.
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
            metric has one and the model is compiled in place or in part.
        first_pass: Context around the first of two passes. Under ``DistributedDataParallel`` all workers share one
            perturbation by default; with ``ddp.no_sync`` each has its own (m-sharpness), and the weights stay equal.
        second_pass: Context around the second pass, such as one that keeps it out of logs.
        same_randomness: Whether the second pass draws the random numbers of the first: the same dropout masks, from
            torch's generators on the CPU and on the parameters' devices.

    Raises:
        TypeError: base is no optimizer.
        ValueError: rho, start_step, norm or batch_norm is out of its range or choices, the base evaluates the loss
            itself or has a rho of its own, the metrics belong to different models, or ``first_pass`` is given with a
            sharded probe or of a network with a static graph.

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

    _step_supports_amp_scaling = True  # then a GradScaler leaves its scale here before it calls ``step``

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
        second_pass: Context | None = None,
        same_randomness: bool = False,
    ) -> None:
        self.probe = probe or Metric()
        self.perturbation = Perturbation(rho, self.probe.norm if norm is None else norm, start_step, batch_norm)
        super().__init__(base, {"rho": rho})
        share_radius(base, rho)
        self.direction = direction or Direction()
        self.transport = transport or Metric()
        if first_pass is not None and self.probe.sharded:
            raise ValueError("first_pass= gives each worker a perturbation; a probe with shard=True has one for all.")
        require_dynamic_graph(first_pass)
        self.first_pass, self.second_pass, self.same_randomness = first_pass, second_pass, same_randomness
        self.model = one_model(model, self.probe.model, self.transport.model)
        self._now = Progress()

    @property
    def steps(self) -> int:
        """Returns the number of steps taken; one that float16 overflowed is not counted."""
        return self._now.steps

    @property
    def perturbed(self) -> bool:
        """Returns whether a step is between its two passes, and the weights are not the trained ones."""
        return self._now.between is not None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, scaler: GradScaler | None = None) -> Any:
        """Takes one step on one minibatch.

        Args:
            closure: Evaluates the loss on the minibatch, calls backward and returns the loss; it may clear the
                gradients first. It is called twice, or once where nothing is perturbed. Gradient accumulation goes
                inside it.
            scaler: For float16: the closure calls ``scaler.scale(loss).backward()``, and the caller
                ``scaler.update()`` after the step, also after one that raised. An overflow in either pass skips the
                step.

        Returns:
            The closure's loss at theta, the unperturbed point.

        Raises:
            TypeError: there is no closure.
            RuntimeError: the closure leaves no gradient, or adds to those of other micro-batches; a GradScaler or
                accelerate calls this step in a way that would be wrong; or the step is between its two passes.
            ValueError: a group's rho is negative or not finite, a parameter is complex, flattened by FSDP1 or not the
                model's, its gradient is sparse and not everything here can use it, the network is compiled and not
                named, or, with ``first_pass``, the scaler would not tell the workers of each other's overflows.
        """
        self._require_at_theta("step()")
        require_no_hidden_scale(self)
        if closure is None:
            return self._without_closure()
        require_whole_step()
        scaler = scaler or UNSCALED
        if self.first_pass is not None:
            require_shared_overflow(scaler)
        trained = self._trained()
        radii = self.perturbation.radii(self.param_groups, self.steps)
        if not any(radii):
            self._now.gradients.clear_used()
            loss = evaluated(closure)
            self._move(trained, scaler, observed=False)
            return loss
        replayed = Randomness(trained.parameters).replayed if self.same_randomness else None
        with self._unless_recording("clean"), entered(self.first_pass), self._now.gradients.cleared():
            loss = evaluated(closure)
        try:
            between = self._perturb(trained, scaler, radii)
            if not between.overflow:
                self._now.gradients.clear()
                with self._unless_recording("perturbed"), entered(self.second_pass), entered(replayed):
                    evaluated(closure)
        finally:
            self.restore()
        self._move(trained, scaler, overflow=between.overflow)
        return loss

    @torch.no_grad()
    def first_step(self, *, scaler: GradScaler | None = None) -> None:
        """Perturbs the weights along the gradients of the caller's backward passes, and clears these gradients.

        For loops without closures: as often as one likes ``loss.backward()``, then ``first_step()``, the same losses'
        ``backward()`` again, and ``second_step()``. Where a step perturbs they are ``step(closure)``, bit for bit.

        Args:
            scaler: As for ``step``; it is ``second_step``'s too.

        Raises:
            RuntimeError: the step is between its two passes, or there is no gradient.
            ValueError: as for ``step``; or something here would need to know where the first pass begins: batch-norm
                with ``batch_norm="perturbed"``, ``same_randomness`` or ``first_pass``.
        """
        self._require_at_theta("first_step()")
        for name in ("same_randomness", "first_pass"):
            if getattr(self, name):
                raise ValueError(f"{name}= is for step(closure), which knows where a pass begins; leave it out.")
        if self.model is not None and self.perturbation.batch_norm == "perturbed" and records(self.model):
            raise ValueError(RECORDED)
        for hook in self._optimizer_step_pre_hooks.values():
            hook(self, (), {})
        try:
            radii = self.perturbation.radii(self.param_groups, self.steps)
            between = self._perturb(self._trained(), scaler or UNSCALED, radii)
            between.scaler = scaler or UNSCALED
            between.called = between.contexts.enter_context(frozen_statistics(self.model, self._now.statistics))
            between.contexts.enter_context(guarded(self.model))
            between.contexts.enter_context(entered(self.second_pass))
        except BaseException:
            self.restore()
            raise
        self._now.gradients.clear()

    @torch.no_grad()
    def second_step(self) -> None:
        """Restores the weights, transports the gradients, lets the base move (its hooks see them), and clears them.

        Raises:
            RuntimeError: there was no ``first_step``, or there is no gradient.
            ValueError: batch-norm took statistics from the first pass, and ``batch_norm="perturbed"``.
        """
        between = self._now.between
        if between is None:
            raise RuntimeError("second_step() comes after first_step() and a second backward pass.")
        self.restore()
        if self.model is None:
            if self._now.statistics and self.perturbation.batch_norm == "perturbed":
                raise ValueError(RECORDED)
            self._require_seen(between.called)
        self._move(self._trained(), between.scaler, overflow=between.overflow)
        self._now.gradients.clear()
        self._opt_called = True  # what a scheduler asks, since ``step`` was not called
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, (), {})

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the weights back where ``first_step`` found them; the step is forgotten. Else it does nothing."""
        if self._now.between is not None:
            self._now.between.restore()
            self._now.between = None

    def eval(self) -> None:
        """Calls the base's ``eval``, if it has one; RuntimeError between the two passes of a step."""
        self._require_at_theta("eval()")
        super().eval()

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
        """Returns the base's ``state_dict``, with all else that a resumed run needs (checkpoints.py) inside.

        Hooks registered on this optimizer see the whole state, hooks on the base the base's part.

        Raises:
            RuntimeError: the step is between its two passes.
        """
        self._require_at_theta("state_dict()")
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        own = {"steps": self.steps, "placeholders": self._now.placeholders, **self._composition.state_dict()}
        state = packed(own, self.base.state_dict(), self._trained())
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state; training continues bit for bit.

        Args:
            state_dict: What ``state_dict`` returned.

        Raises:
            RuntimeError: the step is between its two passes.
            ValueError: the state was not saved by a ``SharpnessAware`` of the same direction, probe and transport, or
                one of these refuses its part; the base is then unchanged.
        """
        self._require_at_theta("load_state_dict()")
        state_dict = dict(state_dict)  # which the hooks may change
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        own, base = unpacked(state_dict, self._trained())
        self._composition.load_state_dict({**own, **without_tensors(own, own["placeholders"])})
        self.base.load_state_dict(base)
        self._now.steps, self._now.placeholders = own["steps"], []
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for copies and pickles, without hooks (as torch does) and without scratch memory."""
        self._require_at_theta("a copy")
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_optimizer_")}
        kept.pop("step", None)  # a learning-rate scheduler puts one of its own here
        return {**kept, "_now": self._now.kept()}

    @property
    def _composition(self) -> Composition:
        return Composition(self.direction, self.probe, self.transport)

    def _trained(self) -> Trained:
        return self._now.trained(self.base, self.model)

    def _checked_gradients(self, trained: Trained, whose: str) -> Named:
        """Returns the gradients of a pass; an error where a step with them would be wrong."""
        gradients = trained.gradients()
        trained.require_model(gradients)
        require_some(gradients, whose)
        self._composition.require_dense(gradients)
        return gradients

    def _perturb(self, trained: Trained, scaler: GradScaler, radii: list[float]) -> Perturbed:
        """Moves the weights to theta + eps, along the gradients of the first pass."""
        gradients = self._checked_gradients(trained, "the first pass")
        if not unscale(scaler, self):
            self._now.between = Perturbed(overflow=True)
            return self._now.between
        self._composition.forget(self._now.placeholders)
        chosen = trained.of_groups(radii, gradients)
        mv, factor = self._composition.ascent(gradients, chosen, self.perturbation.norm, trained.shards)
        self._now.between = between = trained.keep(mv.keys())  # known before anything moves
        trained.climb(between, mv, factor, radii)
        return between

    def _move(self, trained: Trained, scaler: GradScaler, *, observed: bool = True, overflow: bool = False) -> None:
        """Transports the gradients of the last pass and lets the base move, unless a pass was not finite.

        Args:
            trained: Whose gradients they are.
            scaler: Of the step.
            observed: Whether the transport has seen the gradient at theta; otherwise this is the only pass.
            overflow: Whether an earlier pass was not finite.
        """
        if not observed or not trained.any_gradient():
            self._checked_gradients(trained, "the second pass" if observed else "the closure")
        if unscale(scaler, self.base) and not overflow:
            if type(self.transport) is not Metric or trained.spread:
                gradients = trained.gradients()
                if not observed:
                    self._composition.forget(self._now.placeholders)
                    self.transport.observe(gradients)
                self.transport.apply_(gradients)  # in place: a gradient may be a view of a communication bucket
            scaler.step(self.base)
            self._now.steps += 1
        self._now.gradients.leave()

    def _without_closure(self) -> None:
        """Makes the base's state and the parts' averages, as ``torch.distributed.checkpoint`` asks before it loads."""
        gradients = self._trained().gradients()
        require_still(self.param_groups, gradients)
        self.base.step()
        if self.steps == 0 and not self._now.placeholders:
            self._now.placeholders = self._composition.place(gradients)

    def _require_at_theta(self, what: str) -> None:
        if self._now.between is not None:
            raise RuntimeError(
                f"{what} came between the two passes of a step, where the weights are perturbed; "
                "call second_step() or restore() first."
            )

    @contextlib.contextmanager
    def _unless_recording(self, batch_norm_pass: BatchNormPass) -> Iterator[None]:
        """Freezes batch-norm statistics in a pass that is not the one they are taken from."""
        if self.perturbation.batch_norm == batch_norm_pass:
            yield
            return
        with frozen_statistics(self.model, self._now.statistics) as called:
            yield
        if self.model is None:
            self._require_seen(called)

    def _require_seen(self, called: set[nn.Module]) -> None:
        """Looks for batch-norm layers that compiled code hides, whenever more code was compiled."""
        if compilations() > self._now.searched:
            require_seen(called, self._trained().with_gradient())
            self._now.searched = compilations()
