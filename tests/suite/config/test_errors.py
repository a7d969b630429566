from __future__ import annotations

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, did_you_mean, exit_status, try_each
from llqr_sam.suite.plan.plan import plan

# What was typed, and what the one line must say (keys: test_command_line, values: test_settings).
LINES = {
    "optim.rho=abc": "error: optim.rho=abc must be a number, not of type str.",
    "optim.rho=[1]": "error: optim.rho=[1] must be a number, not of type list.",
    "protocol.epochs=1.5": "error: protocol.epochs=1.5 must be a whole number, not of type float.",
    "dry_run=maybe": "error: dry_run=maybe must be true or false, not of type str.",
    "seed=null": "error: seed=null must have a value.",
    "paths=here": "error: paths=here must be a group of keys, not of type str.",
    "optim.rho=0.1,0.2": "error: Ambiguous value for argument 'optim.rho=0.1,0.2': add -m to run each of the values.",
    "optim.lr=${protocol.rate}": "error: optim.lr: Interpolation key 'protocol.rate' not found",
    "optim.rho=-1": "error: optim.rho=-1.0 must be >= 0.",
    "seed=": "error: seed= has no value.",
}


@pytest.mark.parametrize(("word", "line"), LINES.items(), ids=list(LINES))
def test_a_mistake_is_one_line_and_status_2(word, line, capsys):
    assert exit_status(lambda: len(plan(Command.of(word)))) == 2
    assert capsys.readouterr() == ("", line + "\n")


@pytest.mark.parametrize("word", ["optim.rho='a\nb'", "seed=(", "hydra.nothing=1", "hydra/launcher=cloud", "seed=${"])
def test_whatever_hydra_says_is_cut_to_one_line(word, capsys):
    assert exit_status(lambda: len(plan(Command.of(word)))) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1


def test_ctrl_c_is_130_and_a_bug_keeps_its_traceback(capsys):
    def stop() -> int:
        raise KeyboardInterrupt

    def bug() -> int:
        raise RuntimeError("ours")

    assert exit_status(stop) == 130
    assert exit_status(lambda: 1) == 1
    with pytest.raises(RuntimeError):
        exit_status(bug)


def test_what_is_possible_is_done_and_the_rest_named():
    def refuse() -> str:
        raise UsageError("seed=9 is not there.")

    def bug() -> str:
        raise RuntimeError("ours")

    done = try_each({"a": lambda: "first", "b": refuse, "c": lambda: "last"})
    assert done == (["first", "last"], ["b passed over: seed=9 is not there."])
    with pytest.raises(UsageError, match="seed=9"):
        try_each({"a": refuse, "b": refuse})
    with pytest.raises(RuntimeError):
        try_each({"a": lambda: "first", "b": bug})


def test_did_you_mean():
    assert did_you_mean("smam", ["sam", "sgdm"]) == " (did you mean sam?)"
    assert did_you_mean("zzz", ["sam"]) == "."
    assert isinstance(UsageError("x"), ValueError)
