"""How good a network is: top-1 and loss on the test samples, and which weights exactly they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.engine.devices.team import ALONE, Team


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    bfloat16: bool = False,
    team: Team = ALONE,
) -> tuple[float, float]:
    """Test the model in inference mode; its training mode is as before afterwards.

    Args:
        model: Inputs ``[B, C, H, W]`` to outputs ``[B, classes]``.
        batches: Inputs and int64 labels ``[B]`` on ``device``, every sample once over all ranks.
        device: Where the model is.
        bfloat16: Run the model under bfloat16 autocast.
        team: Ranks that share the samples.

    Returns:
        Top-1 in percent, and the mean cross-entropy (never smoothed, so that it compares between protocols).
    """
    training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    samples = 0
    try:
        for inputs, targets in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                outputs = model(inputs)
            correct += (outputs.argmax(dim=1) == targets).sum()
            loss += F.cross_entropy(outputs.float(), targets, reduction="sum")
            samples += len(targets)
    finally:
        model.train(training)
    counted = team.sum(torch.stack([correct.double(), loss, torch.full_like(loss, samples)])).tolist()
    return 100 * counted[0] / counted[2], counted[1] / counted[2]


def all_finite(model: nn.Module) -> bool:
    """Whether no parameter and no buffer holds an infinity or a NaN. Waits for the device once."""
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict, in the order of the names.

    Equal exactly when the tensors are equal bit for bit, wherever and in whatever memory format they are.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
