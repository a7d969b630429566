"""The run ids of settings that have records somewhere: a change of the code that changes one loses those records."""

from __future__ import annotations

import hashlib

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned, plan

RUNS = {
    "": "digits-small_cnn-llqr_sam-ngd-s0-384c5736",
    "optim=sgdm": "digits-small_cnn-sgdm-s0-dbfc0b06",
    "optim=sam seed=3 optim.rho=0.1": "digits-small_cnn-sam-s3-57e5f975",
    "optim=asam": "digits-small_cnn-asam-s0-79668be0",
    "optim=vasso": "digits-small_cnn-vasso-s0-baab7729",
    "optim=info_sam": "digits-small_cnn-info_sam-s0-a7ae33f9",
    "optim=fisher_sam": "digits-small_cnn-fisher_sam-s0-ab62cf56",
    "optim=f_sam dataset=cifar10 arch=vgg16_bn": "cifar10-vgg16_bn-f_sam-s0-b88f7abc",
    "optim=llqr geometry=newton structure=dense": "digits-small_cnn-llqr-newton-s0-1f172fdb",
    "optim=llqr_f_sam geometry=ngd structure=kfac": "digits-small_cnn-llqr_f_sam-ngd-s0-20a43a29",
    "optim=llqr_probe_sam": "digits-small_cnn-llqr_probe_sam-ngd-s0-62f0b89a",
    "optim=adam": "digits-small_cnn-adam-s0-653bf83b",
    "optim=adamw dataset=imagenet arch=vit_base": "imagenet-vit_base-adamw-s0-dbeb34d7",
    "dataset=cifar100 arch=resnet18 optim=llqr_sam geometry=newton seed=3": (
        "cifar100-resnet18-llqr_sam-newton-s3-2d8d34d4"
    ),
    "dataset=cifar100 arch=wrn28_10 optim=llqr_sam geometry=ngd dataset.label_noise=0.4": (
        "cifar100-wrn28_10-llqr_sam-ngd-s0-86a3cef7"
    ),
    "dataset=tinyimagenet optim=llqr_sam precision=fast": "tinyimagenet-resnet18-llqr_sam-ngd-s0-2c5bb1eb",
    "dataset=iwslt14 optim=llqr_sam geometry=ngd": "iwslt14-transformer_iwslt-llqr_sam-ngd-s0-02893f4e",
    "dataset=multi30k optim=fisher_sam protocol.epochs=5": "multi30k-transformer_small-fisher_sam-s0-637f93f3",
    "dataset=cifar10 arch=pyramidnet110 optim=sam precision=deterministic protocol.schedule=step "
    "protocol.milestones=[100,150]": "cifar10-pyramidnet110-sam-s0-9bb89073",
    "arch.width=16 optim=sam optim.friendly_decay=null protocol.evaluate_every=50steps precision.accumulate=2 "
    "dataset.crop=batch": "digits-small_cnn-sam-s0-4337a625",
}

TABLES = {  # number of runs, and the first digits of the hash of their ids, a line each
    "1": (140, "19781a80c3cc9e72"),
    "2": (140, "6c014bb1b41e13d9"),
    "3": (36, "1db0228faa904f66"),
    "4": (160, "6863b4495ef8d754"),
    "5": (18, "f6747fc776f127e3"),
    "6": (20, "dc5e6b0b6c273e5e"),
    "7": (15, "57ddd844f3117c04"),
    "8": (60, "dacf118063f17c9f"),
    "demo": (42, "46ab3b677238a006"),
    "epochs_15": (6, "53db6cf16c2a7fe1"),
    "epochs_30": (3, "d16db7482317b1a1"),
}


def _planned(words: list[str]) -> list[Planned]:
    return plan(Command.of(*words))


@pytest.mark.parametrize(("words", "run_id"), RUNS.items())
def test_a_run_keeps_its_id(words: str, run_id: str) -> None:
    assert [run.run_id for run in _planned(words.split())] == [run_id]


@pytest.mark.parametrize("number", TABLES)
def test_a_table_keeps_its_runs(number: str) -> None:
    runs = _planned([f"table={number}"])
    digest = hashlib.sha256("\n".join(run.run_id for run in runs).encode()).hexdigest()
    assert (len(runs), digest[:16]) == TABLES[number]
