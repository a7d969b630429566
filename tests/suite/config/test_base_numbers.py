"""Which numbers a base optimizer gets: the protocol's for its own base and for Adam, else those of its class."""

from __future__ import annotations

from typing import Any

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import checked_words
from llqr_sam.suite.config.errors import UsageError
from tests.suite.plans import plan_of, settings_of

ADAPTIVE = {"lr": 1e-3, "betas": [0.9, 0.999]}
NUMBERS: dict[str, dict[str, Any]] = {
    "optim=sam": {"base": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    "optim=base": {"base": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    "optim=sam optim.base=adamw": {"base": "adamw", "weight_decay": 5e-4, **ADAPTIVE},
    "optim=sam optim.base=adam": {"base": "adam", "weight_decay": 5e-4, **ADAPTIVE},
    "optim=sam dataset=iwslt14": {"base": "adamw", "lr": 5e-4, "betas": [0.9, 0.98], "weight_decay": 1e-4},
    "optim=sam dataset=iwslt14 optim.base=adam": {
        "base": "adam", "lr": 5e-4, "betas": [0.9, 0.98], "weight_decay": 1e-4,
    },
    "optim=sam optim.base=RMSprop": {"base": "torch.optim.RMSprop", "lr": 0.01, "weight_decay": 5e-4},
    "optim=base optim.base=Rprop": {"base": "torch.optim.Rprop", "lr": 0.01},
    "optim=base optim.base=RMSprop optim.weight_decay=null": {
        "base": "torch.optim.RMSprop", "lr": 0.01, "weight_decay": 0.0,
    },
    "optim=base optim.base=RMSprop optim.lr=1 optim.base_args.alpha=0.9 optim.base_args.centered=true": {
        "base": "torch.optim.RMSprop", "lr": 1.0, "weight_decay": 5e-4, "base_args": {"alpha": 0.9, "centered": True},
    },
    "protocol.methods.base=RMSprop protocol.methods.lr=0.02 optim=base": {
        "base": "torch.optim.RMSprop", "lr": 0.02, "weight_decay": 5e-4,
    },
    "optim=base optim.base=NAdam optim.base_args={betas:[0.8,0.9]}": {
        "base": "torch.optim.NAdam", "lr": 0.002, "weight_decay": 5e-4, "base_args": {"betas": [0.8, 0.9]},
    },
}  # fmt: skip
KEYS = ("base", "lr", "weight_decay", "momentum", "betas", "base_args")


@pytest.mark.parametrize(("words", "numbers"), NUMBERS.items(), ids=list(NUMBERS))
def test_a_base_gets_the_numbers_that_are_for_it(words: str, numbers: dict[str, Any]) -> None:
    """``optim=sam optim.base=adamw`` once ended in optim.momentum=0.9 has no meaning."""
    optim = settings_of(*words.split()).as_dict()["optim"]
    assert {key: optim[key] for key in KEYS if key in optim} == numbers


@pytest.mark.parametrize("words", ["optim=base optim.base=RMSprop optim.base_args.alpha=0.9", "optim.base_args={a:1}"])
def test_words_pass_through_hydra_unchanged(words: str) -> None:
    """Hydra needs a ++ before a new key of a dictionary, which nobody types and no command keeps."""
    given = tuple(words.split())
    assert Command.of(*checked_words(given)).words == given
    with pytest.raises(UsageError, match="Write key=value"):
        checked_words([f"++{given[-1]}"])


def test_arguments_are_part_of_the_id() -> None:
    words = ("optim=base", "optim.base=RMSprop")
    assert settings_of(*words).run_id == settings_of("optim=base", "optim.base=torch.optim.RMSprop").run_id
    assert settings_of(*words, "optim.base_args={}").run_id == settings_of(*words).run_id
    assert settings_of(*words, "optim.base_args.alpha=0.9").run_id != settings_of(*words).run_id


@pytest.mark.parametrize(
    ("words", "phrase"),
    {
        "optim.base=rmsprob": "did you mean RMSprop?",
        "optim.base=RMSprop optim.base_args.beta=1": "optim.base_args.beta=1 is no argument of torch.optim.RMSprop",
        "optim=base optim.base=RMSprop optim.betas=[0.9,0.9]": "whose arguments are in optim.base_args",
        "optim=sgdm optim.base=RMSprop": "Write optim=base optim.base=RMSprop",
        "optim.base_args.alpha.x=1": "unknown key optim.base_args.alpha.x",
    }.items(),
)
def test_a_mistake_is_one_sentence_before_anything_is_planned(words: str, phrase: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_of(*words.split())
    assert phrase in str(caught.value)
    assert "\n" not in str(caught.value)
