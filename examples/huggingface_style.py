"""LLQR+SAM for a model that takes keyword batches and returns an object, as Hugging Face's do.

    python examples/huggingface_style.py

LLQR needs the logits, so it is given a module that returns them. The parameters are the same tensors under longer names
("0.embed.weight"); ``SharpnessAware`` takes its names from the metric, and the base optimizer knows none.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llqr_sam import LLQR, SharpnessAware


class Classifier(nn.Module):  # stands for AutoModelForSequenceClassification.from_pretrained(...)
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 32), nn.Linear(32, 4)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        logits = self.head(self.encoder(self.embed(input_ids)).mean(1))
        return SimpleNamespace(logits=logits, loss=None if labels is None else cross_entropy(logits, labels))


class Logits(nn.Sequential):  # a model, and what to read off its output
    def forward(self, **batch: Tensor) -> Tensor:
        return self[0](**batch).logits


def main() -> None:
    torch.manual_seed(0)
    model = Classifier()
    metric = LLQR(Logits(model), structure="kfac", interval=20, inner_steps=10)
    optimizer = SharpnessAware(torch.optim.AdamW(model.parameters(), lr=1e-3), rho=0.05, probe=metric, transport=metric)
    for step in range(50):
        labels = torch.randint(4, (32,))  # which quarter of the vocabulary the words come from, more or less
        words = (12 * labels.unsqueeze(1) + torch.randint(-5, 18, (32, 12))).clamp(0, 49)
        metric.refresh_if_due({"input_ids": words}, labels, cross_entropy)

        def closure(words=words, labels=labels):
            optimizer.zero_grad()
            loss = model(input_ids=words, labels=labels).loss
            loss.backward()
            return loss

        loss = optimizer.step(closure).item()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss:.4f}")


if __name__ == "__main__":
    main()
