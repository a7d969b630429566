"""timm: its train.py hands each loss to a loss scaler, which calls backward, clips and steps, and has no closure.

    optimizer = SharpnessAware(create_optimizer_v2(model, ...), rho=0.05, probe=metric, transport=metric)
    loss_scaler = SharpnessAwareScaler(model, train_loss_fn)

The loop stays as it is: hooks on the model and the loss function keep what an update must evaluate again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from timm.utils.clip_grad import dispatch_clip_grad
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from llqr_sam.integrations.learned import learned_metrics
from llqr_sam.integrations.watched import Watched
from llqr_sam.methods.sharpness_aware import SharpnessAware
from llqr_sam.methods.step.scaling import UNSCALED


class SharpnessAwareScaler:
    """Stands for timm's ``NativeScaler``, in every precision, and takes the two steps of a ``SharpnessAware``.

    It remembers what ``model`` and ``loss_fn`` were called with. At an update it refreshes each ``LLQR`` that is due on
    the first micro-batch, evaluates all micro-batches again at theta + eps, and clips the final gradient. A network
    with batch-norm needs ``SharpnessAware(batch_norm="clean")``.

    Args:
        model: What the loop calls: after ``DistributedDataParallel`` and ``torch.compile``.
        loss_fn: What the loop calls on outputs and targets, a mean over samples.
        scaler: For float16, such as ``torch.amp.GradScaler("cuda")``. Default: losses are not scaled.

    Raises:
        ValueError: there are several processes, and the model does not average gradients over them.
    """

    state_dict_key = "amp_scaler"

    def __init__(self, model: nn.Module, loss_fn: nn.Module, scaler: GradScaler = UNSCALED) -> None:
        if dist.is_initialized() and dist.get_world_size() > 1 and not hasattr(model, "no_sync"):
            name = type(model).__name__
            raise ValueError(f"model={name} averages no gradients over processes; give the DistributedDataParallel.")
        self._watched, self._loss_fn, self._scaler = Watched(model, loss_fn), loss_fn, scaler

    def __call__(
        self,
        loss: Tensor,
        optimizer: Optimizer,
        clip_grad: float | None = None,
        clip_mode: str = "norm",
        parameters: Iterable[Tensor] | None = None,
        create_graph: bool = False,
        need_update: bool = True,
    ) -> None:
        """Calls backward, and updates the weights after the last micro-batch of an update.

        Args:
            loss: Of one micro-batch.
            optimizer: The ``SharpnessAware``.
            clip_grad, clip_mode, parameters: As timm's ``dispatch_clip_grad``; ``None`` does not clip.
            create_graph: Not supported.
            need_update: Whether this is an update's last micro-batch.

        Raises:
            ValueError: the optimizer is another one, or create_graph is set.
            RuntimeError: the loss does not come from the model and loss_fn, or as ``SharpnessAware.first_step``.
        """
        if not isinstance(optimizer, SharpnessAware):
            raise ValueError(f"optimizer={type(optimizer).__name__} is not a SharpnessAware; wrap it in one.")
        if create_graph:
            raise ValueError("create_graph=True is for a base that needs second derivatives; wrap one that does not.")

        def clip(*_: Any) -> None:
            dispatch_clip_grad(parameters, clip_grad, mode=clip_mode)

        self._watched.weigh(loss)
        self._backward(loss)
        if not need_update:
            return
        clipping = contextlib.nullcontext() if clip_grad is None else optimizer.base.register_step_pre_hook(clip)
        with self._watched.taken() as window, clipping, contextlib.ExitStack() as perturbed:
            for metric in learned_metrics(optimizer):
                if window[0].named:
                    raise ValueError("LLQR refreshes on positional inputs, and this model is called with keywords.")
                metric.refresh_if_due(window[0].inputs, window[0].targets, self._loss_fn)
            perturbed.callback(optimizer.restore)  # if the second pass fails
            optimizer.first_step(scaler=self._scaler)
            for again in self._watched.losses(window):
                self._backward(again)
            optimizer.second_step()
        self._scaler.update()

    def close(self) -> None:
        """Removes the hooks on the model and the loss function; call it before another one takes its place."""
        self._watched.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the loss scale; U is in the optimizer's."""
        return self._scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        self._scaler.load_state_dict(state_dict)

    def _backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
