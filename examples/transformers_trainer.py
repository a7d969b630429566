"""LLQR+SAM in Hugging Face's Trainer: a small BERT says from which quarter of the vocabulary most words come.

    python examples/transformers_trainer.py

``SharpnessAwareTrainer`` takes one argument more than ``Trainer``: what to make of the optimizer that the arguments
describe. For SAM alone that is ``functools.partial(SharpnessAware, rho=0.05)``.
"""

from __future__ import annotations

import tempfile

import torch

from llqr_sam import LLQR, SharpnessAware
from llqr_sam.torchvision_compat import ensure_torchvision

ensure_torchvision()  # transformers imports torchvision, whose wheel may not match a CPU build of torch

from transformers import BertConfig, BertForSequenceClassification, TrainingArguments  # noqa: E402

from llqr_sam.integrations.transformers import Logits, SharpnessAwareTrainer  # noqa: E402


def llqr_sam(base, model):
    metric = LLQR(Logits(model), structure="kfac", interval=20, inner_steps=10)
    return SharpnessAware(base, rho=0.05, probe=metric, transport=metric)


def main() -> None:
    torch.manual_seed(0)
    labels = torch.randint(4, (1600,))
    words = (12 * labels.unsqueeze(1) + torch.randint(-5, 18, (1600, 12))).clamp(0, 49)
    data = [{"input_ids": w, "labels": y} for w, y in zip(words, labels, strict=True)]
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 12}
    config = BertConfig(num_hidden_layers=1, num_attention_heads=4, num_labels=4, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=2,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=3e-3,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        model = BertForSequenceClassification(config)
        trainer = SharpnessAwareTrainer(model, arguments, train_dataset=data, sharpness_aware=llqr_sam)
        trainer.train()
    for entry in trainer.state.log_history[:-1]:
        print(f"step {entry['step']}: loss {entry['loss']:.4f}")


if __name__ == "__main__":
    main()
