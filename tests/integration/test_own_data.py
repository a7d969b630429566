"""A network of timm on images of your own, from the command line: trained, refreshed, finished, and found again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llqr_sam.data.digits import read_digits
from llqr_sam.engine.records.record import read_record
from llqr_sam.repository import CONF

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits as image files in class folders, a fifth of them in val/."""
    folder, digits = tmp_path_factory.mktemp("own") / "numbers", read_digits()
    for index in range(300):
        place = folder / ("val" if index % 5 == 0 else "train") / f"digit {int(digits.train_labels[index])}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.train_images[index, 0].numpy()).resize((40, 48)).save(place / f"{index}.png")
    return folder


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    common = [f"paths.results={folder}/results", f"paths.workspace={folder}/runs", "logger=none", "protocol.epochs=1"]
    command = [sys.executable, "train.py", *common, *words]
    return subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=600)


def test_timm_on_a_folder_with_a_refresh_of_u(numbers: Path, tmp_path: Path) -> None:
    """Worker processes decode; the second command finds the run finished and its data the same."""
    words = [
        *("dataset=folder", f"dataset.path={numbers}", "dataset.flip=false", "dataset.workers=1"),
        *("arch=timm", "arch.model=test_convnext", "arch.args.drop_path_rate=0.1"),
        *("optim=llqr_sam", "protocol.batch_size=40", "optim.refresh_batch=40", "optim.inner_steps=2"),
    ]
    first = train(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    (path,) = (tmp_path / "results/runs/adhoc").glob("numbers-test_convnext-llqr_sam-ngd-s0-*.json")
    record = read_record(path)
    assert record.status == "finished"
    assert len(record.refreshes) >= 1
    assert (record.samples.train, record.samples.test) == (240, 60)
    assert record.config["arch"]["args"] == {"drop_path_rate": 0.1}
    second = train(tmp_path, *words)
    assert "is finished" in second.stdout, second.stderr


def test_data_of_the_same_name_are_told_apart(numbers: Path, tmp_path: Path) -> None:
    """Other images under the same label are refused, not taken for those of the record."""
    words = ["dataset=folder", "optim=sgdm", "arch.width=4", "protocol.batch_size=40", "dataset.workers=0"]
    assert train(tmp_path, *words, f"dataset.path={numbers}").returncode == 0
    other = tmp_path / "numbers"
    for kind in ("a", "b"):
        (other / kind).mkdir(parents=True)
        for number in range(60):
            Image.new("RGB", (8, 8)).save(other / kind / f"{number}.png")
    refused = train(tmp_path, *words, f"dataset.path={other}")
    assert refused.returncode == 2
    assert "has the data" in refused.stderr
