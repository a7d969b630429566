"""``llqr_sam.load_network``, as a program of one's own calls it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llqr_sam import load_network
from llqr_sam.data.registry import info, read
from llqr_sam.engine.records.record import Record
from llqr_sam.repository import ROOT
from llqr_sam.suite.run.attempt import attempt
from tests.suite.jobs import jobs_of


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[Record, Path]:
    """A run that kept its weights where train.py does by default."""
    folder = tmp_path_factory.mktemp("kept")
    (job,) = jobs_of(folder, "optim=sam", "protocol.epochs=1", "keep_weights=true")
    job = replace(job, options=replace(job.options, workspace=folder / "outputs" / "runs"))
    return attempt(job), folder


@pytest.mark.parametrize("named", ["id", "beginning", "record", "folder"])
def test_the_network_scores_what_the_run_scored(kept, named, monkeypatch):
    """From the pixels and what it says of them; the global generator is left as it was."""
    record, folder = kept
    monkeypatch.chdir(folder)
    names = {"id": record.run_id, "beginning": "digits-small_cnn-sam", "folder": Path("outputs/runs") / record.run_id}
    names["record"] = Path("results/runs/adhoc") / f"{record.run_id}.json"
    before = torch.get_rng_state()
    network = load_network(names[named])
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert network.dataset_info == info("digits")
    images, _ = read("digits", None, Path())
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (network.dataset_info.mean, network.dataset_info.std))
    with torch.no_grad():
        logits = network((images.test_images / 255 - mean) / std)
    loss = F.cross_entropy(logits, images.test_labels).item()
    assert loss == pytest.approx(record.metrics.curve[-1].test_loss, rel=1e-5)


def test_the_note_beside_the_weights_says_how_inputs_are_normalised(kept):
    record, folder = kept
    note = json.loads((folder / "outputs" / "runs" / record.run_id / "weights.json").read_text())
    assert note["dataset"]["mean"] == list(info("digits").mean)
    assert (note["dataset"]["classes"], note["config"], note["run_id"]) == (10, record.config, record.run_id)


def test_the_documents_example_runs(kept, monkeypatch):
    (block,) = re.findall(r"```py\n(import torch.*?)```", (ROOT / "docs" / "records.md").read_text(), re.DOTALL)
    monkeypatch.chdir(kept[1])
    names: dict[str, torch.Tensor] = {}
    exec(compile(block, "records.md", "exec"), names)
    assert names["classes"].shape == (4,)


def test_a_run_without_weights_is_one_sentence(kept, tmp_path):
    record, folder = kept
    with pytest.raises(ValueError, match="has no weights.pt in .* train it again with keep_weights=true"):
        load_network(record.run_id, workspace=tmp_path, results=folder / "results")
    with pytest.raises(ValueError, match=r"There is no run digits-sam"):
        load_network("digits-sam", workspace=tmp_path, results=tmp_path)


def test_weights_of_another_run_of_that_name_are_refused(kept, tmp_path):
    """As after training it again with other data, or on another machine, over the same workspace."""
    record, folder = kept
    other = replace(record, weights_sha256="0" * 64)
    other.write(tmp_path / "runs" / "adhoc" / f"{record.run_id}.json")
    with pytest.raises(ValueError, match="holds other weights"):
        load_network(record.run_id, workspace=folder / "outputs" / "runs", results=tmp_path)


def test_a_network_for_translation_is_refused(kept, tmp_path):
    record, folder = kept
    source = folder / "outputs" / "runs" / record.run_id
    (tmp_path / record.run_id).mkdir()
    (tmp_path / record.run_id / "weights.pt").write_bytes((source / "weights.pt").read_bytes())
    note = json.loads((source / "weights.json").read_text())
    del note["dataset"]
    (tmp_path / record.run_id / "weights.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="dictionaries"):
        load_network(record.run_id, workspace=tmp_path, results=tmp_path)
