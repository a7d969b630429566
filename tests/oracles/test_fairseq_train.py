"""fairseq-train as the judge of the translation loop: the same data and seed give the same weights and losses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.losses import LossLog
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.settings.run_settings import RunOptions
from llqr_sam.methods.settings import MethodSettings
from tests.suite.plans import settings_of

pytestmark = pytest.mark.nmt

UPDATES = 50

# fairseq's own command, watched where its criterion is called.
FAIRSEQ_TRAIN = """
import json, sys
import torch
from llqr_sam.fairseq_compat import ensure_fairseq
ensure_fairseq()
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion as Criterion
from fairseq.dataclass.initialize import hydra_init
from fairseq_cli.train import cli_main

hydra_init()
forward, losses = Criterion.forward, []

def watched(self, model, sample, reduce=True):
    if not losses:
        torch.save(model.state_dict(), "weights.pt")
    loss, size, log = forward(self, model, sample, reduce)
    losses.append({"loss": loss.item() / size, "tokens": sample["ntokens"], "ids": sample["id"].tolist()})
    return loss, size, log

Criterion.forward = watched
cli_main()
json.dump(losses, open("losses.json", "w"))
"""


def fairseq_train(data: Path, folder: Path, seed: int) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """What each update of ``fairseq-train`` saw and lost, and the weights it began with."""
    sizes = {"layers": 2, "embed-dim": 128, "ffn-embed-dim": 256, "attention-heads": 4}
    options: dict[str, Any] = {
        "task": "translation",
        "source-lang": "de",
        "target-lang": "en",
        "arch": "transformer_iwslt_de_en",
        **{f"{side}-{key}": value for side in ("encoder", "decoder") for key, value in sizes.items()},
        "dropout": 0.0,
        "optimizer": "adam",
        "adam-betas": "(0.9, 0.98)",
        "weight-decay": 1e-4,
        "lr": 5e-4,
        "lr-scheduler": "inverse_sqrt",
        "warmup-updates": 20,
        "clip-norm": 0.0,
        "criterion": "label_smoothed_cross_entropy",
        "label-smoothing": 0.1,
        "max-tokens": 300,
        "max-update": UPDATES,
        "seed": seed,
        "num-workers": 0,
        "log-format": "none",
    }
    words = [f"--{key}={value}" for key, value in options.items()]
    flags = ["--share-decoder-input-output-embed", "--cpu", "--no-save", "--disable-validation"]
    command = [sys.executable, "-c", FAIRSEQ_TRAIN, str(data), *words, *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = json.loads((folder / "losses.json").read_text())
    return losses, torch.load(folder / "weights.pt", weights_only=True)


class Beginning(Observer):
    """Ends the run after ``UPDATES`` steps."""

    def on_start(self, run: RunInfo) -> None:
        self.request_stop = run.request_stop

    def on_step(self, step: int, loss: float) -> None:
        if step == UPDATES:
            self.request_stop()


def test_losses_are_those_of_fairseq_train(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_networks: list[dict[str, Tensor]]
) -> None:
    """Initial weights, batches, their order, schedule, loss and AdamW, over more than one epoch; dropout off."""
    settings = settings_of("dataset=multi30k", "optim=adamw", "seed=3")
    protocol = dataclasses.replace(settings.protocol, max_tokens=300, warmup_steps=20, dropout=0.0, bleu_every=2)
    optim = MethodSettings.from_keys(settings.optim.as_keys() | {"lr": 5e-4})
    ours: list[float] = []
    add = LossLog.add

    def watched(log: LossLog, step: int, loss: Tensor) -> bool:
        ours.append(loss.item())
        return add(log, step, loss)

    monkeypatch.setattr(LossLog, "add", watched)
    options = RunOptions(tmp_path / "work", tmp_path / "record.json", data_root=captions, device="cpu")
    with pytest.raises(Interrupted):
        execute(dataclasses.replace(settings, protocol=protocol, optim=optim), options, [Beginning()])

    theirs, weights = fairseq_train(captions / "multi30k", tmp_path, seed=3)
    assert len(ours) == len(theirs) == UPDATES
    begun = {name.removeprefix("transformer."): tensor for name, tensor in made_networks[0].items()}
    assert all(torch.equal(weights[name], begun[name]) for name in begun if not name.endswith("_float_tensor"))
    differences = [abs(a - b["loss"]) for a, b in zip(ours, theirs, strict=True)]
    print(f"largest difference in {UPDATES} updates: {max(differences):.1e}")
    assert max(differences) < 1e-4
    assert ours[0] > ours[-1] + 0.5


@pytest.fixture
def made_networks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The initial weights of every network that a run builds."""
    from llqr_sam.engine.tasks import translation

    build, made = translation.build_transformer, []

    def watched(*arguments: Any, **options: Any) -> Any:
        network = build(*arguments, **options)
        made.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return network

    monkeypatch.setattr(translation, "build_transformer", watched)
    return made
