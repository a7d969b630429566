"""SAM over AdamW on a network that ``fully_shard`` (FSDP2) spreads over two processes.

    python examples/fsdp2.py
    torchrun --nproc-per-node 8 examples/fsdp2.py

Nothing differs from one process: the step works on each rank's part of the parameters, and its norm is over all of
them. LLQR needs whole parameters (docs/frameworks.md).
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.fsdp import fully_shard

from llqr_sam import Friendly, SharpnessAware

EPOCHS, BATCH = 4, 64


def train() -> None:
    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32, device=device)[rank::size]
    labels = torch.tensor(labels, device=device)[rank::size]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 10)).to(device)
    fully_shard(model)
    optimizer = SharpnessAware(torch.optim.AdamW(model.parameters(), lr=3e-3), rho=0.05, direction=Friendly())
    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(images)).split(BATCH)[:-1]:

            def closure(rows=rows):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}")
    dist.barrier()  # no process leaves while another still needs it
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        train()
    else:
        os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", __file__])
