"""What the data of a run can do to it: small image files, read by a process of their own."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from llqr_sam.data import registry
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.trainer import Trainer
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import read_record
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.launch import launch
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.run import attempt as attempting
from llqr_sam.suite.run.attempt import DeviceLost, Job, LoaderLost, RankLost, attempt, explained
from llqr_sam.suite.run.run_folder import Failure
from tests.suite.jobs import jobs_of, words_in
from tests.suite.records import status_of

WORDS = ("dataset=imagenet", "arch=small_cnn", "arch.width=4", "optim=sgdm", "protocol.batch_size=4")
RUN = (*WORDS, "protocol.epochs=2", "protocol.milestones=[1]", "protocol.warmup_epochs=0", "checkpoint_minutes=0")


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command for an ImageNet of 2 classes x (16 + 2) files, of which 8 x 8 pixels are seen."""
    random = torch.Generator().manual_seed(0)
    for part, count in (("train", 16), ("val", 2)):
        for wnid in ("n01", "n02"):
            folder = tmp_path / "imagenet" / part / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (12, 12, 3), generator=random, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number:02}.png")
    small = replace(registry.find("imagenet"), info=replace(registry.info("imagenet"), image_size=8))
    monkeypatch.setitem(registry._DATASETS, "imagenet", small)
    return words_in(tmp_path, *RUN, f"dataset.path={tmp_path}/imagenet", "dataset.workers=1")


def job_of(folder: Path, words: list[str]) -> Job:
    (job,) = jobs_of(folder, *words)
    return job


def failing_launch(words: list[str], folder: Path) -> int:
    command = Command.of(*words)
    return launch(status_of(plan(command), folder / "results", folder / "work"), command.config)


class KillTheReader(Observer):
    """Kills the process that reads the data set, after a step of the second epoch."""

    def on_step(self, step: int, loss: float) -> None:
        if step == 10:
            (reader,) = multiprocessing.active_children()
            assert reader.pid is not None
            os.kill(reader.pid, signal.SIGKILL)


def test_a_reader_that_dies_fails_the_run_with_one_line(tmp_path, words, monkeypatch, capsys):
    """Its last checkpoint stands; the retry ends with the weights of a run that was not disturbed."""
    straight = attempt(job_of(tmp_path / "straight", words_in(tmp_path / "straight", *words[2:-2])))
    job = job_of(tmp_path, words)
    with monkeypatch.context() as patch:
        patch.setattr(attempting, "Terminal", lambda **_: KillTheReader())
        assert failing_launch(words, tmp_path) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if "LoaderLost" in line]
    # torch's signal handler and its look at the queue race for the news
    fate = "(is killed by signal: Killed|exited unexpectedly)"
    assert re.search(rf"process \d+, which reads the data set, {fate}; retry=failed continues the run$", line)
    failure = Failure.read(job.folder)
    assert failure is not None
    assert failure.error.startswith("LoaderLost: process ")
    found = CheckpointStore(job.folder / "checkpoints").load_latest()
    assert found is not None
    assert found[0] in (9, 10)
    assert failing_launch([*words, "retry=failed"], tmp_path) == 0
    record = read_record(job.options.record_path)
    assert record.resumes == 1
    assert record.weights_sha256 == straight.weights_sha256


class Stop(Observer):
    """Asks for the end after the first step."""

    def on_start(self, run: RunInfo) -> None:
        self._request_stop = run.request_stop

    def on_step(self, step: int, loss: float) -> None:
        self._request_stop()


def test_an_interrupted_run_leaves_no_reader_behind(tmp_path, words):
    """Readers do not hear SIGTERM: one that outlived the run would be waited for at exit, for ever."""
    with pytest.raises(Interrupted) as kept:
        attempt(job_of(tmp_path, words), observers=[Stop()])
    assert kept.value.step == 1
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("channels_last", ["true", "false"])
def test_a_failed_evaluation_leaves_no_reader_behind(tmp_path, words, monkeypatch, channels_last):
    """Here a reader of test images, and the traceback is kept."""

    def failing(outputs, targets, **options):
        if "reduction" not in options:  # in training
            return cross_entropy(outputs, targets, **options)
        assert multiprocessing.active_children()
        raise RuntimeError("out of luck")

    cross_entropy = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        attempt(job_of(tmp_path, [*words, f"precision.channels_last={channels_last}"]))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_one_line_that_names_the_file(tmp_path, words, workers):
    file = tmp_path / "imagenet" / "train" / "n02" / "07.png"
    file.write_bytes(file.read_bytes()[:40])
    words = [*words, f"dataset.workers={workers}"]
    with pytest.raises(UsageError) as error:
        failing_launch(words, tmp_path)
    assert str(error.value).startswith(f"{file} is not a readable image (")
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()  # though the traceback is kept
    with pytest.raises(ValueError, match="07.png"):
        attempt(job_of(tmp_path, words))
    failure = Failure.read(job_of(tmp_path, words).folder)
    assert failure is not None
    assert failure.error.startswith(f"ValueError: {file} is not a readable image (")


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 12) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
    ],
)
def test_torchs_words_for_a_lost_reader(message):
    error = explained(RuntimeError(message))
    assert isinstance(error, LoaderLost)
    assert str(error).startswith("process 12")
    assert "\n" not in str(error)


ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later.\n"


@pytest.mark.parametrize("message", [ILLEGAL, "Triton Error [CUDA]: an illegal memory access was encountered"])
def test_an_error_of_cuda_is_one_line(message):
    kinds = [RuntimeError, *filter(None, [getattr(torch, "AcceleratorError", None)])]
    for error in (explained(kind(message)) for kind in kinds):
        assert isinstance(error, DeviceLost)
        assert str(error) == f"{message.splitlines()[0]}; the next run needs a new process"


def test_one_error_of_cuda_ends_a_table_and_the_next_launch_goes_on(tmp_path, monkeypatch, capsys):
    """CUDA would refuse the second run of the process too."""
    words = words_in(tmp_path, "table=demo", "table.methods=[{optim: sgdm}]", "table.seeds=[0,1]", "protocol.epochs=1")

    def refused(self: Trainer) -> None:
        raise RuntimeError(ILLEGAL)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", refused)
        assert failing_launch(words, tmp_path) == 1
    assert capsys.readouterr().err.count("failed: sgdm s") == 1
    assert len(list(tmp_path.rglob("failure.json"))) == 1
    assert failing_launch(words, tmp_path) == 0
    assert len(list(tmp_path.rglob("runs/*/*.json"))) == 1


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_other_errors_stay_as_they_are(kind):
    error = kind("CUDA out of memory")
    assert explained(error) is error
    assert isinstance(explained(RuntimeError("[/pytorch/third_party/gloo/gloo/x.cc:1] Connection closed")), RankLost)
