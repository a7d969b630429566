"""A mistake in a file of the user is one line with file, key and value."""

from __future__ import annotations

import os
import shutil

import pytest

from llqr_sam.suite.config import sources
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import MISTAKES, explain
from llqr_sam.suite.plan.plan import plan
from tests.processes import REPOSITORY, start
from tests.suite.config.own import OPTIM, TABLE, write

SAM = TABLE.replace("mysam", "sam")
MISTAKEN = [  # file, text, words, what is said after the file's name
    ("optim/mysam", OPTIM + "rhoo: 1", "optim=mysam", ": unknown key rhoo (did you mean rho?)"),
    ("optim/mysam", OPTIM.replace("0.2", "abc"), "optim=mysam", ": rho=abc must be a number, not of type str."),
    ("optim/mysam", OPTIM.replace("0.2", "-1"), "optim=mysam", ": rho=-1.0 must be >= 0."),
    ("optim/mysam", OPTIM + "base: lionn", "optim=mysam", ": base=lionn is not known. "),
    ("optim/mysam", OPTIM + "probe: sharp", "optim=mysam", ": probe=sharp is not known. Choose from: identity, "),
    ("optim/mysam", OPTIM + "lr: ${protocol.lrr}", "optim=mysam", ": lr: Interpolation key 'protocol.lrr' not found"),
    ("optim/mysam", OPTIM + "  lr: 1", "optim=mysam", ", line 8: mapping values are not allowed here. It is not YAML."),
    ("optim/mysam", OPTIM + "rho: 1", "optim=mysam", ", line 8: found duplicate key rho. "),
    ("optim/mysam", OPTIM.replace("part/base", "part/bass"), "optim=mysam", ": defaults name optim/part/bass, which "),
    ("optim/mysam", "", "optim=mysam", " has no keys. Write key: value, one a line."),
    ("optim/mysam", "only text", "optim=mysam", " has no keys."),
    ("optim/mysam", OPTIM.replace("name: mysam\n", ""), "optim=mysam", ": name is missing."),
    (
        "optim/mysam",
        OPTIM.replace("base@_here_", "base"),
        "optim=mysam",
        ": defaults name part/base: write part/b",
    ),
    ("optim/mysam", "defaults: [mysam]\nname: mysam", "optim=mysam", ": its defaults come back to it, by optim/mysam"),
    ("optim/mysam", OPTIM.replace("name: my", "name: my/"), "optim=mysam", ": name=my/sam must be letters, digits, "),
    ("optim/mysam", OPTIM + "base_args: [1]", "optim=mysam", ": base_args=[1] must be a group of keys."),
    ("protocol/short", "methods: 3", "protocol=short", ": methods=3 must be a group of keys."),
    ("protocol/short", "methods: {base: Lionn}", "protocol=short", ": optim.base=Lionn is not known. "),
    ("arch/mine", "name: mynet", "arch=mine", ": arch=mynet is not a network here. Choose from: small_cnn, "),
    ("arch/mine", "name: small_cnn\nwidth: wide", "arch=mine", ": width=wide must be a whole number, "),
    ("dataset/flowers", "name: flowers", "dataset=flowers", ": dataset=flowers is not a data set here"),
    ("protocol/short", "epochs: 0", "protocol=short", ": epochs=0 must be >= 1."),
    ("scale/mini", "# @package _global_\nseed: x", "scale=mini", ": seed=x must be a whole number, not of type str."),
    ("table/mine", TABLE.replace("datasets: [digits]\n", ""), "table=mine", ": datasets is missing."),
    ("table/mine", TABLE.replace("methods:", "method:"), "table=mine", ": unknown key method (did you mean methods?)"),
    (
        "table/mine",
        TABLE.replace("optim: sgdm", "optm: sgdm"),
        "table=mine",
        ": unknown key optm (did you mean optim?)",
    ),
    (
        "table/mine",
        TABLE.replace("[digits]", "digits"),
        "table=mine",
        ": datasets=digits must be a list, not of type s",
    ),
    ("table/mine", TABLE.replace("[digits]", "[digts]"), "table=mine", ": dataset=digts is not a data set here. "),
    ("table/mine", TABLE.replace("mysam", "mysm"), "table=mine", ": optim=mysm is not an optimizer here. "),
    ("table/mine", SAM.replace("protocol.epochs", "protocl.epochs"), "table=mine", ": unknown key protocl.epochs. "),
    ("table/mine", SAM.replace("epochs=1", "epochs=0"), "table=mine", ": protocol.epochs=0 m"),
    ("table/mine", SAM.replace("[protocol.epochs=1]", "['seed=1,2']"), "table=mine", ": words: seed=1,2 has several v"),
    ("table/mine", SAM.replace("epochs=1", "epochs=1,2"), "table=mine", ": 2 is not of the form key=value."),
    ("table/mine", SAM.replace("seeds: [0, 1]", "seeds: []"), "table=mine", ": seeds=[] must have one entry at least."),
    ("table/mine", SAM + "baseline: sgd", "table=mine", ": baseline=sgd is not an optimizer here (did you mean sgdm?)"),
    ("table/mine", SAM + "formats: [docx]", "table=mine", ": formats=['docx'] is not possible. Choose from: md, "),
    ("table/mine", TABLE.replace("number: mine", "number: demo"), "table=mine", ": number=demo must be mine, "),
    (
        "table/mine",
        SAM.replace("[protocol.epochs=1]", "['plugins=[x]']"),
        "table=mine",
        ": plugins=[x] cannot be in a file",
    ),
]


def said(*words: str) -> str:
    """What a command says of its mistake."""
    with pytest.raises(MISTAKES) as caught:
        plan(Command.of(*words))
    return explain(caught.value)


@pytest.mark.parametrize(("name", "text", "words", "sentence"), MISTAKEN)
def test_a_mistake_names_its_file(name, text, words, sentence, tmp_path):
    sources.use(write(tmp_path, **{name.replace("/", "__"): text}))
    message = said(*words.split())
    assert message.startswith(f"{tmp_path / name}.yaml{sentence}")
    assert "\n" not in message


def test_a_file_that_is_no_text(tmp_path):
    path = write(tmp_path, optim__mysam=OPTIM) / "optim" / "mysam.yaml"
    path.write_bytes(b"name: \xff")
    sources.use(tmp_path)
    assert said("optim=mysam") == f"{path} is not UTF-8 text: invalid start byte at byte 6."


def test_a_broken_file_that_another_names(tmp_path):
    """In a defaults list, or as a method of a table."""
    sources.use(write(tmp_path, optim__mysam=OPTIM + "x: 1", optim__more="defaults: [mysam]", table__mine=TABLE))
    for word in ("optim=more", "table=mine"):
        assert f"{tmp_path}/optim/mysam.yaml: unknown key x" in said(word)


def test_a_mistake_of_the_command_is_not_the_files(tmp_path):
    sources.use(write(tmp_path, optim__mysam=OPTIM))
    assert said("optim=mysam", "optim.rho=-1") == "optim.rho=-1.0 must be >= 0."
    assert said("optim=mysam", "seed=-1").startswith("seed=-1 must be ")
    assert said("optim=sam", "optim.rho=-1") == "optim.rho=-1.0 must be >= 0."


def test_a_circle_of_two_files(tmp_path):
    sources.use(write(tmp_path, optim__one="defaults: [two]\nname: one", optim__two="defaults: [one]\nname: two"))
    assert said("optim=one") == f"{tmp_path}/optim/one.yaml: its defaults come back to it, by optim/two. " + (
        "Leave optim/one out there."
    )


IN_CONF = [  # a file that is added to conf/, or changed there
    ("optim/mysam", OPTIM + "rhoo: 1", "optim=mysam", ": unknown key rhoo (did you mean rho?)"),
    ("table/mine", TABLE.replace("methods:", "method:"), "table=mine", ": unknown key method (did you mean methods?)"),
    ("table/mine", "number: mine\n title: x", "table=mine", ", line 2: mapping values are not allowed here. It is not"),
    ("protocol/digits", "epochs: 1\n lr: 2", "optim=sgdm", ", line 2: mapping values are not allowed here. It is not"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text", "words", "sentence"), IN_CONF)
def test_a_mistake_in_conf_names_its_file_too(name, text, words, sentence, tmp_path):
    for part in ("conf", "llqr_sam", "slurm"):
        shutil.copytree(REPOSITORY / part, tmp_path / part)
    shutil.copy(REPOSITORY / "train.py", tmp_path)
    write(tmp_path / "conf", **{name.replace("/", "__"): text})
    process = start("train.py", words, "dry_run=true", cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    output, error = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert error.startswith(f"error: conf/{name}.yaml{sentence}")
    assert error.count("\n") == 1
