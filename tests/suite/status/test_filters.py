from __future__ import annotations

import pytest

from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.status.filters import Filter
from tests.suite.plans import settings_of

LLQR = settings_of("optim=llqr_sam", "seed=1", "optim.rho=0.1").as_dict()
SGDM = settings_of("optim=sgdm", "dataset.label_noise=0.4").as_dict()


@pytest.mark.parametrize(
    ("words", "llqr", "sgdm"),
    [
        ([], True, True),
        (["optim=sgdm,sam"], False, True),
        (["optim=llqr_sam", "seed=0,1"], True, False),
        (["dataset=digits", "arch=small_cnn"], True, True),
        (["geometry=ngd"], True, False),
        (["geometry=none"], False, True),
        (["optim.rho=0.10"], True, False),
        (["optim.rho=null"], False, True),
        (["dataset.label_noise=0.4"], False, True),
        (["protocol.augment=True"], True, True),
        (["protocol.milestones=[]"], True, True),
        (["protocol.epochs=20"], True, True),
    ],
)
def test_words_choose_by_settings(words, llqr, sgdm):
    chosen = Filter.of(words)
    assert (chosen.matches(LLQR), chosen.matches(SGDM)) == (llqr, sgdm)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("optim.roh=1", r"optim.roh=1 chooses no runs: optim.roh is no setting of one \(did you mean optim.rho\?\)"),
        ("device=cpu", "device=cpu chooses no runs"),
        ("precision=fast", "precision=fast names a file, .* Choose by its settings: precision.autocast, "),
        ("table=2", "table=2 names a file"),
        ("sam", "sam is not of the form key=value"),
    ],
)
def test_what_is_no_setting_is_refused(word, reason):
    with pytest.raises(UsageError, match=reason):
        Filter.of([word])


def test_why_nothing_is_chosen():
    configs = [LLQR, SGDM]
    assert Filter.of(["seed=0", "optim=sam"]).explain(configs) == "none has optim.name=sam; they have llqr_sam, sgdm"
    assert Filter.of(["seed=0", "optim=llqr_sam"]).explain(configs) == "none has seed=0 optim.name=llqr_sam together"
