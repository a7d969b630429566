"""Runs of no table on the page."""

from __future__ import annotations

import base64
import time
from pathlib import Path

from llqr_sam.report.page.section import Section
from llqr_sam.report.page.sweeps_section import sweep_sections
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.run.run_folder import Begun, Epochs
from tests.suite.plans import plan_of
from tests.suite.records import write_record


def sections(folder: Path) -> list[Section]:
    return list(sweep_sections(Command.of(f"paths.results={folder}", f"paths.workspace={folder / 'work'}")))


def finished(folder: Path, *words: str, scores: tuple[float, ...]) -> None:
    """A record for each seed of a run."""
    for seed, score in enumerate(scores):
        (run,) = plan_of(*words, f"seed={seed}")
        write_record(folder, run, [score])


def test_a_section_for_each_network(tmp_path):
    for rho, best in ((0.05, 94.0), (0.1, 96.0), (0.2, 92.0)):
        finished(tmp_path, "optim=sam", f"optim.rho={rho}", scores=(best - 1, best, best + 1))
    finished(tmp_path, "optim=sam", "dataset=cifar100", scores=(70.0,))
    lone, sweep = sections(tmp_path)
    assert (lone.table.title, lone.picture, lone.answer) == ("Single runs: ResNet-18 on CIFAR-100", "", None)
    assert sweep.table.title == "Single runs: Small CNN on Digits"
    assert sweep.table.notes == ["best optim.rho=0.1 for digits small_cnn sam: 96.00 [93.52, 98.48], n = 3"]
    assert [row.labels for row in sweep.table.groups[0].rows] == [["sam", "0.05"], ["sam", "0.1"], ["sam", "0.2"]]
    assert b"<svg" in base64.b64decode(sweep.picture)
    assert len(sweep.records) == 9


def test_methods_alone_are_compared_with_sgdm(tmp_path):
    finished(tmp_path, "optim=sgdm", scores=(90.0, 91.0, 92.0))
    finished(tmp_path, "optim=sam", scores=(92.0, 93.1, 94.2))
    (section,) = sections(tmp_path)
    (sentence,) = section.answer.sentences
    assert (sentence.method, sentence.verdict) == ("sam", "is better than sgdm")
    assert (sentence.difference.text, sentence.difference.interval) == ("+2.10", "[+1.85, +2.35]")
    finished(tmp_path, "optim=sam", "optim.rho=0.3", scores=(92.0, 93.1))
    (section,) = sections(tmp_path)
    assert section.answer is None, "the radius varies too"


def test_a_run_that_is_going_on_is_followed(tmp_path):
    finished(tmp_path, "optim=sgdm", scores=(90.0,))
    (run,) = plan_of("optim=sam")
    folder = tmp_path / "work" / run.run_id
    with RunLock(folder, 10):
        Begun(run.settings.as_dict(), "adhoc").write(folder)
        Epochs(5, 20, 80.0, 60.0, time.time(), 1, "%").write(folder)
        (section,) = sections(tmp_path)
    assert list(section.running) == [run.run_id]
    assert section.running[run.run_id].startswith("running: epoch 5/20, best 80.00 %, 0:0")
    assert [row.labels[0] for row in section.table.groups[0].rows] == ["sam", "sgdm"]
    assert section.table.groups[0].rows[0].cells[-1].ours == "1 running"


def test_a_damaged_record_is_named(tmp_path):
    finished(tmp_path, "optim=sgdm", scores=(90.0,))
    (tmp_path / "runs" / "adhoc" / "half.json").write_text("{")
    (section,) = sections(tmp_path)
    assert len(section.damage) == 1
    assert "half.json" in section.damage[0]
