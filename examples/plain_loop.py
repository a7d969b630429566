"""LLQR+SAM in a plain PyTorch loop, on scikit-learn's digits.

    python examples/plain_loop.py

Two lines differ from training with SGD: the metric is refreshed before a step that is due, and the step is given a
closure. Schedulers, checkpoints (``optimizer.state_dict()``) and clipping work as with any optimizer.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from llqr_sam import LLQR, SharpnessAware

EPOCHS, BATCH = 4, 128


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)

    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    metric = LLQR(model, structure="ekfac", interval=20, inner_steps=20)
    optimizer = SharpnessAware(base, rho=0.1, probe=metric, transport=metric)
    scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * (len(images) // BATCH))

    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(images)).split(BATCH)[:-1]:
            inputs, targets = images[rows], labels[rows]
            metric.refresh_if_due(inputs, targets, loss_fn)

            def closure(inputs=inputs, targets=targets):
                optimizer.zero_grad()
                loss = loss_fn(model(inputs), targets)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())
            scheduler.step()
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}")


if __name__ == "__main__":
    main()
