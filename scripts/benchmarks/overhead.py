"""What a sharpness-aware step costs beyond its two gradients and the base's step, beside many small parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from llqr_sam.engine.measurements.rounds import Workload, time_in_rounds
from llqr_sam.methods.sharpness_aware import SharpnessAware

COUNT, SIZE, ROWS = 200, 8, 16


class Chain(nn.Module):
    """``COUNT`` square matrices, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.randn(SIZE, SIZE) for _ in range(COUNT))

    def forward(self, x: Tensor) -> Tensor:
        for matrix in list(self.matrices):
            x = torch.tanh(x @ matrix)
        return x


def overhead(rounds: int, device: torch.device) -> list[Workload]:
    """Time two gradients and the base's step, the first workload, and steps of SAM in several forms."""
    net, inputs = Chain().to(device), torch.randn(ROWS, SIZE, device=device)

    def evaluate() -> Tensor:
        for matrix in net.matrices:
            matrix.grad = None
        loss = net(inputs).square().mean()
        loss.backward()
        return loss

    def base() -> Optimizer:
        return SGD(net.parameters(), lr=0.01, momentum=0.9)

    bare, plain = base(), SharpnessAware(base(), rho=0.05)
    named = SharpnessAware(base(), rho=0.05, model=net)
    replaying = SharpnessAware(base(), rho=0.05, same_randomness=True)

    def without() -> None:
        evaluate()
        evaluate()
        bare.step()

    def in_two_steps() -> None:
        evaluate()
        plain.first_step()
        evaluate()
        plain.second_step()

    workloads = [
        Workload("two gradients and the base's step", without, repeats=20),
        Workload("SAM step", lambda: plain.step(evaluate), repeats=20),
        Workload("SAM step, model=", lambda: named.step(evaluate), repeats=20),
        Workload("SAM in two steps", in_two_steps, repeats=20),
        Workload("SAM step, same_randomness=True", lambda: replaying.step(evaluate), repeats=20),
    ]
    time_in_rounds(workloads, rounds, device)
    return workloads
