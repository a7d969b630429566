"""LLQR+SAM in a Lightning module, on scikit-learn's digits.

    python examples/lightning_module.py

The module and the trainer are as for SGD, but for ``configure_optimizers`` and one callback, which refreshes the metric
and keeps what the second pass logs out of the results. The checkpoint of an epoch holds U too.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from llqr_sam import LLQR, SharpnessAware
from llqr_sam.torchvision_compat import ensure_torchvision

ensure_torchvision()  # Lightning imports torchvision, whose wheel may not match a CPU build of torch

import lightning.pytorch as pl  # noqa: E402

from llqr_sam.integrations.lightning import SharpnessAwareCallback  # noqa: E402


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.loss_fn = nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = self.loss_fn(self.net(inputs), targets)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        print(f"epoch {self.current_epoch + 1}: loss {self.trainer.callback_metrics['loss']:.4f}")

    def configure_optimizers(self):
        base = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        metric = LLQR(self.net, structure="ekfac", interval=20, inner_steps=20)
        optimizer = SharpnessAware(base, rho=0.1, probe=metric, transport=metric)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)]


def main() -> None:
    pl.seed_everything(0, verbose=False)
    digits = load_digits()
    rows = TensorDataset(torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target))
    module = Classifier()
    options = {"enable_checkpointing": False, "logger": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=4, accelerator="cpu", callbacks=[SharpnessAwareCallback(module.loss_fn)], **options)
    trainer.fit(module, DataLoader(rows, batch_size=128, shuffle=True))


if __name__ == "__main__":
    main()
