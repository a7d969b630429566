"""Table 9 from shapes alone, and against the memory that LLQR really takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam import LLQR
from llqr_sam.methods.distributed import Ranks
from llqr_sam.models.registry import build, image_sizes, names
from llqr_sam.models.transformer import TRANSFORMERS, build_transformer
from llqr_sam.report.tables.printed_table import write_table
from llqr_sam.studies.table_9 import (
    KERNEL_SCALARS,
    STORAGE,
    Storage,
    arch_storage,
    arch_table,
    dataset_for,
    print_table_9,
    storage,
    table_9,
)
from llqr_sam.suite.config.errors import UsageError


def _small(arch):
    return (
        build(arch, classes=10, image_size=8, channels=1)
        if arch == "small_cnn"
        else build(arch, classes=10, image_size=32, width=8)
    )


def test_all_twelve_rows_are_the_papers():
    rows = table_9()
    assert len(rows) == 12
    assert [row.ours for row in rows] == [row.paper for row in rows]


def test_the_file_is_the_papers_file(tmp_path):
    md, table, tex = write_table(print_table_9(), tmp_path / "table_09")
    assert table.read_bytes() == STORAGE.read_bytes()
    assert "ViT-Ti/8 (printed: ViT-Ti/16)" in md.read_text()
    assert "64 x 64 images, 200 classes" in md.read_text()
    assert "92.45<br>paper 92.45" in md.read_text()
    assert "12 of 12 rows equal the paper's" in md.read_text()
    assert tex.read_text().count(r" \\") == 13


def test_the_shared_copy_says_the_same(shared):
    """The table handed to us, not our copy of it."""
    assert (shared / "paper" / "table9_storage.csv").read_bytes() == STORAGE.read_bytes()


@pytest.mark.parametrize("structure", list(KERNEL_SCALARS))
@pytest.mark.parametrize("arch", ["small_cnn", "resnet18"])
def test_llqr_takes_that_memory(arch, structure):
    """Scalars and bytes of every factor of a real LLQR, float32, beside the count from shapes on the meta device."""
    model = _small(arch)
    with torch.device("meta"):
        counted = storage(_small(arch), structure)
    metric = LLQR(model, structure=structure)
    held = {
        f.untyped_storage().data_ptr(): f.untyped_storage().nbytes() for b in metric._blocks for f in b.factors.values()
    }
    assert metric.storage == counted.scalars
    assert sum(held.values()) == 4 * counted.scalars == counted.mib * 2**20
    assert counted.total_mib * 2**20 == pytest.approx(4 * (counted.scalars + counted.parameters))


@pytest.mark.parametrize("structure", list(KERNEL_SCALARS))
def test_shares_are_what_each_rank_of_llqr_holds(structure, monkeypatch):
    """Four ranks played one after another: LLQR built as each stores what the plan says."""
    model = _small("small_cnn")
    planned = [sum(share) for share in storage(model, structure, 4).shares()]
    held = []
    for rank in range(4):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 4
        monkeypatch.setattr("llqr_sam.methods.llqr.ranks_of", lambda *_, ranks=ranks: ranks)
        held.append(LLQR(model, structure=structure, shard=True).storage)
    assert held == planned
    assert sum(held) == storage(model, structure).scalars


def test_the_fullest_device_holds_at_least_its_even_share():
    uneven = Storage(parameters=10, parts=(7, 1, 1), shards=2)
    assert uneven.shares() == [[7], [1, 1]]
    assert uneven.largest_mib == 7 / 2**18 > uneven.mib == 4.5 / 2**18


def test_frozen_parameters_have_no_metric():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    counted = storage(model, "ekfac")
    assert (counted.parameters, counted.scalars) == (26, 4 * 4 + 2 * 2 + 4 * 2 + 2)


@pytest.mark.parametrize("arch", [name for name in names() if image_sizes(name)])
def test_every_arch_is_answered(arch):
    """For the largest images it takes; "diagonal" stores one scalar a parameter, a shape of memory nobody allocates."""
    dataset = dataset_for(arch)
    counted = arch_storage(arch, dataset, "diagonal")
    assert counted.scalars == counted.parameters
    assert arch in arch_table(arch, dataset, list(KERNEL_SCALARS), 2)


@pytest.mark.parametrize("structure", list(KERNEL_SCALARS))
def test_an_embedding_is_diagonal_over_its_words(structure):
    model = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 3))
    assert storage(model, structure).scalars == LLQR(model, structure=structure).storage


@pytest.mark.nmt
@pytest.mark.parametrize("structure", list(KERNEL_SCALARS))
def test_llqr_of_a_translator_takes_that_memory(structure):
    """Of fairseq's network for dictionaries of 40 and 30 words, the target's embedding and output one block."""
    from llqr_sam.fairseq_compat import ensure_fairseq

    ensure_fairseq()
    from fairseq.data import Dictionary

    dictionaries = Dictionary(), Dictionary()
    for dictionary, words in zip(dictionaries, (40, 30), strict=True):
        for number in range(words - len(dictionary)):
            dictionary.add_symbol(str(number))
    model = build_transformer("transformer_small", dictionaries, dropout=0.0)
    counted = arch_storage("transformer_small", "multi30k", structure, words=(40, 30))
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert counted.scalars == LLQR(model, structure=structure).storage


@pytest.mark.nmt
@pytest.mark.parametrize("arch", TRANSFORMERS)
def test_every_translator_is_answered(arch):
    """For 10,000 words a language: those of the joint BPE (docs/methods.md, section 3.6)."""
    dataset = dataset_for(arch)
    counted = arch_storage(arch, dataset, "diagonal")
    assert counted.scalars == counted.parameters
    assert f"arch={arch}, dictionaries of 10000 and 10000 words (iwslt14)" in arch_table(arch, dataset, ["kfac"], 2)
    with pytest.raises(UsageError, match="words=3 must be at least 4"):
        arch_storage(arch, dataset, "diagonal", words=(3, 4))


def test_translators_need_fairseq(monkeypatch):
    monkeypatch.setattr("llqr_sam.fairseq_compat.fairseq_installed", lambda: False)
    with pytest.raises(UsageError, match="arch=transformer_iwslt cannot be counted: fairseq is not installed; `make"):
        arch_table("transformer_iwslt", dataset_for("transformer_iwslt"), ["ekfac"], 1, words=(11, 12))


def test_a_table_of_no_such_data_set_is_one_sentence():
    with pytest.raises(UsageError, match="dataset=cifar is not a data set here"):
        arch_table("resnet50", "cifar", ["ekfac"], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet51", "imagenet", "ekfac"), "arch=resnet51 is not a network here"),
        (("resnet50", "cifar", "ekfac"), "dataset=cifar is not a data set here"),
        (("resnet50", "cifar10", "ekfac"), "arch=resnet50 takes images of side 224, not 32"),
        (("resnet50", "imagenet", "dense"), "structure=dense is not counted here"),
        (("resnet50", "imagenet", "ekfac", 0), "shards=0 must be at least 1"),
        (("resnet50", "iwslt14", "ekfac"), "arch=resnet50 takes images, dataset=iwslt14 has sentences"),
        (
            ("transformer_small", "cifar10", "ekfac"),
            "arch=transformer_small takes sentences, dataset=cifar10 has",
        ),
        (("resnet50", "imagenet", "ekfac", 1, (9, 9)), "words= has no use with arch=resnet50 dataset=imagenet"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    with pytest.raises(UsageError, match=message):
        arch_storage(*arguments)


def test_an_unknown_arch_gets_a_suggestion():
    with pytest.raises(UsageError, match=r"arch=resnet51 is not an architecture here.*did you mean resnet50"):
        dataset_for("resnet51")


def test_parameters_of_no_layer_are_spread_each_by_itself():
    """As LLQR spreads a diagonal U: a layer stays together, a class token and a position embedding are none."""
    model = nn.Sequential(nn.Linear(3, 4))
    model.token, model.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 6, 8))
    assert sorted(storage(model, "diagonal").parts) == [8, 16, 48]
