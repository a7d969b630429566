"""Fine-tuning a timm network with LLQR+SAM over AdamW: a fresh head, a frozen stem, two learning rates.

    python examples/timm_finetune.py

With ``pretrained=True`` and a larger model this is the usual recipe; here the weights are random and the images are
scikit-learn's digits, so that nothing is downloaded. The frozen parameters have no part in U.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from llqr_sam import LLQR, SharpnessAware
from llqr_sam.torchvision_compat import ensure_torchvision

STEPS, BATCH = 40, 64


def main() -> None:
    ensure_torchvision()  # timm imports torchvision, whose wheel may not match a CPU build of torch
    import timm

    torch.manual_seed(0)
    digits = load_digits()
    small = torch.tensor(digits.images / 8 - 1, dtype=torch.float32).unsqueeze(1)
    images = nn.functional.interpolate(small, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target)

    model = timm.create_model("test_resnet", pretrained=False, num_classes=10)
    model.conv1.requires_grad_(False)
    head = list(model.get_classifier().parameters())
    body = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in head)]
    loss_fn = nn.CrossEntropyLoss()

    base = torch.optim.AdamW([{"params": body, "lr": 1e-3}, {"params": head, "lr": 3e-3}], weight_decay=0.05)
    metric = LLQR(model, structure="diag_kfac", interval=20, inner_steps=10)
    optimizer = SharpnessAware(base, rho=0.05, probe=metric, transport=metric)

    for step in range(STEPS):
        rows = torch.randint(len(images), (BATCH,))
        inputs, targets = images[rows], labels[rows]
        if report := metric.refresh_if_due(inputs, targets, loss_fn):
            print(f"step {step}: refreshed, U changes the gradient by {report.relative_change:.1%}")

        def closure(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            return loss

        loss = optimizer.step(closure).item()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss:.4f}")


if __name__ == "__main__":
    main()
