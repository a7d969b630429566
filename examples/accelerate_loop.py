"""LLQR+SAM in a loop with Hugging Face's accelerate, on scikit-learn's digits: each step is over two micro-batches.

    python examples/accelerate_loop.py

``AcceleratedStep`` stands for ``accelerator.backward``, clipping and ``optimizer.step``. ``LLQR`` is made from the
prepared model, so that under ``accelerate launch`` it learns from the minibatches of all processes.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from llqr_sam import LLQR, SharpnessAware
from llqr_sam.integrations.accelerate import AcceleratedStep

EPOCHS, BATCH, ACCUMULATED = 4, 64, 2


def main() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATED)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)
    data = TensorDataset(images, torch.tensor(digits.target))
    loader = accelerator.prepare(DataLoader(data, BATCH, shuffle=True))
    layers = nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    model = accelerator.prepare(nn.Sequential(*layers))
    loss_fn = nn.CrossEntropyLoss()

    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    metric = LLQR(model, structure="ekfac", interval=20, inner_steps=20)
    optimizer = SharpnessAware(base, rho=0.1, probe=metric, transport=metric)
    scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader) // ACCUMULATED)
    optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
    step = AcceleratedStep(accelerator, model, optimizer, lambda x, y: loss_fn(model(x), y), max_norm=1.0)

    for epoch in range(EPOCHS):
        losses = []
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                if accelerator.sync_gradients:
                    metric.refresh_if_due(inputs, targets, loss_fn)
                loss = step(inputs, targets)  # None before the last micro-batch of a step
                scheduler.step()
            losses += [] if loss is None else [loss.item()]
        accelerator.print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}")


if __name__ == "__main__":
    main()
