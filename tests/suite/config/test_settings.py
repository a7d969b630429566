from __future__ import annotations

import pytest

from llqr_sam.suite.config.errors import UsageError
from tests.suite.plans import plan_of, settings_of

REFUSED = {
    "arch=resnet50": ["arch=resnet50", "224x224", "dataset=digits", "8x8", "small_cnn"],
    "dataset=imagenet arch.width=16": ["arch.width=16", "arch=resnet50", "resnet18"],
    "dataset=cifar10 arch.width=0": ["arch.width=0", ">= 1"],
    "optim=sgdm geometry=newton": ["geometry=newton", "optim=sgdm"],
    "optim=sam structure=ekfac": ["structure=ekfac", "optim=sam"],
    "geometry=none": ["geometry=none", "newton, ngd"],
    "structure=none": ["structure=none", "ekfac"],
    "optim=sgdm optim.interval=100": ["optim.interval=100", "optim=sgdm"],
    "optim.rho=-1": ["optim.rho=-1", ">= 0"],
    "optim.interval=0": ["optim.interval=0", ">= 1"],
    "optim.ema=1": ["optim.ema=1", "[0, 1)"],
    "optim.ema=-0.1": ["optim.ema=-0.1", "[0, 1)"],
    "optim.rho=nan": ["optim.rho=nan"],
    "dataset.label_noise=1": ["dataset.label_noise=1", "[0, 1)"],
    "dataset.label_noise=-0.1": ["dataset.label_noise=-0.1", "[0, 1)"],
    "dataset.label_noise=nan": ["dataset.label_noise=nan", "[0, 1)"],
    "dataset.crop=corner": ["dataset.crop=corner", "image, batch"],
    "protocol.epochs=0": ["protocol.epochs=0", ">= 1"],
    "protocol.batch_size=0": ["protocol.batch_size=0", ">= 1"],
    "protocol.schedule=linear": ["protocol.schedule=linear", "cosine"],
    "protocol.warmup_epochs=20 protocol.epochs=20": ["protocol.warmup_epochs=20", "protocol.epochs=20"],
    "protocol.milestones=[3,2]": ["protocol.milestones=[3, 2]"],
    "precision.autocast=float16": ["precision.autocast=float16", "bfloat16"],
    "precision.refresh=float16": ["precision.refresh=float16", "float32, tf32, bfloat16"],
    "precision.accumulate=0": ["precision.accumulate=0", ">= 1"],
    "seed=-1": ["seed=-1"],
    "dataset=iwslt14 arch=resnet18": ["arch=resnet18", "sentences", "transformer_iwslt"],
    "dataset=cifar10 arch=transformer_iwslt": ["arch=transformer_iwslt", "images", "resnet18"],
    "dataset=iwslt14 protocol.max_tokens=null": ["protocol.max_tokens=null", "dataset=iwslt14"],
    "dataset=iwslt14 protocol.batch_size=64": ["protocol.batch_size=64", "null"],
    "dataset=iwslt14 protocol.dropout=1": ["protocol.dropout=1", "[0, 1)"],
    "dataset=iwslt14 protocol.schedule=cosine": ["protocol.warmup_steps=4000", "protocol.schedule=cosine", "null"],
    "dataset=iwslt14 precision.accumulate=2": ["precision.accumulate=2", "dataset=iwslt14"],
    "dataset=iwslt14 dataset.label_noise=0.2": ["dataset.label_noise=0.2", "dataset=iwslt14"],
    "dataset=multi30k optim=llqr structure=dense": ["structure=dense", "dataset=multi30k", "squares the vocabulary"],
    "dataset=cifar10 protocol.max_tokens=100": ["protocol.max_tokens=100", "dataset=cifar10"],
    "dataset=cifar10 protocol.batch_size=null": ["protocol.batch_size=null", "dataset=cifar10"],
    "protocol.schedule=inverse_sqrt": ["protocol.warmup_steps=null", "protocol.schedule=inverse_sqrt"],
    "protocol.evaluate_every=2000": ["protocol.evaluate_every=2000", "2000steps"],
    "protocol.evaluate_every=2hours": ["protocol.evaluate_every=2hours", "2epochs"],
    "seed=9223372036854775808": ["seed=9223372036854775808"],
    "logger.mode=live": ["logger.mode=live", "offline, online"],
}


@pytest.mark.parametrize(("words", "phrases"), REFUSED.items(), ids=list(REFUSED))
def test_an_impossible_value_is_one_sentence(words, phrases):
    with pytest.raises(UsageError) as caught:
        plan_of(*words.split())
    message = str(caught.value)
    assert "\n" not in message
    assert all(phrase in message for phrase in phrases)


def test_settings_are_plain_and_pruned():
    """What this run has no use for is not in its identity; numbers have the schema's types."""
    settings = settings_of("optim=sgdm", "optim.lr=1", "protocol.milestones=[1,2]").as_dict()
    assert settings["optim"] == {
        "name": "sgdm",
        "base": "sgd",
        "lr": 1.0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "transport": "identity",
    }
    assert type(settings["optim"]["lr"]) is float
    assert type(settings["protocol"]["milestones"]) is list
    assert "methods" not in settings["protocol"]
    assert settings["dataset"] == {"name": "digits", "label_noise": 0.0, "crop": "image"}


IDS = {  # as of commit b4c28ea
    "": "digits-small_cnn-llqr_sam-ngd-s0-384c5736",
    "optim=sgdm seed=1": "digits-small_cnn-sgdm-s1-8d55c94e",
    "optim=llqr_f_sam dataset.label_noise=0.4": "digits-small_cnn-llqr_f_sam-ngd-s0-801e74e4",
    "dataset=cifar100 geometry=newton seed=3": "cifar100-resnet18-llqr_sam-newton-s3-2d8d34d4",
    "dataset=cifar10 arch=vgg16_bn optim=f_sam": "cifar10-vgg16_bn-f_sam-s0-b88f7abc",
    "dataset=cifar100 arch=wrn28_10 optim=fisher_sam protocol.epochs=2": "cifar100-wrn28_10-fisher_sam-s0-be823311",
    "dataset=cifar100 optim=sam precision=fast precision.deterministic=true": "cifar100-resnet18-sam-s0-4bf94f39",
    "dataset=tinyimagenet optim=llqr": "tinyimagenet-resnet18-llqr-ngd-s0-76d35d79",
    "dataset=imagenet optim=llqr_f_sam": "imagenet-resnet50-llqr_f_sam-ngd-s0-04348d8f",
    "dataset=iwslt14 optim=adamw seed=4": "iwslt14-transformer_iwslt-adamw-s4-fde91e1b",
    "dataset=multi30k": "multi30k-transformer_small-llqr_sam-ngd-s0-46454fda",
}


@pytest.mark.parametrize(("words", "run_id"), IDS.items(), ids=list(IDS))
def test_a_run_keeps_its_id(words, run_id):
    """Or its record would no longer be found: a new setting leaves the ids of runs that do not use it."""
    assert settings_of(*words.split()).run_id == run_id


def test_the_precision_of_refreshes_is_part_of_its_id_unless_float32():
    ids = {text: settings_of(f"precision.refresh={text}").run_id for text in ("float32", "tf32", "bfloat16")}
    assert ids["float32"] == settings_of().run_id
    assert len(set(ids.values())) == 3
    assert "refresh" not in settings_of("precision.refresh=float32").as_dict()["precision"]
    assert settings_of("optim=sam", "precision.refresh=tf32").run_id == settings_of("optim=sam").run_id  # has no U


def test_how_often_a_run_is_evaluated_is_part_of_its_id():
    every = {text: settings_of(f"protocol.evaluate_every={text}").run_id for text in ("1epoch", "2epochs", "2000steps")}
    assert every["1epoch"] == settings_of().run_id
    assert len(set(every.values())) == 3
    assert settings_of("protocol.evaluate_every=2000steps").as_dict()["protocol"]["evaluate_every"] == "2000steps"
