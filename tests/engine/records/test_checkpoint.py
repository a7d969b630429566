from __future__ import annotations

import errno
import hashlib
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llqr_sam.engine.records.checkpoint import CheckpointStore


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"weight": torch.arange(1000.0) * step}, "curve": [{"top1": 0.5}], "error": None}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Two checkpoints: steps 10 and 20."""
    made = CheckpointStore(tmp_path / "checkpoints")
    made.save(10, state(10))
    made.save(20, state(20))
    return made


def newest(store: CheckpointStore) -> Path:
    return store.folder / "step_000000020.pt"


def digest_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def test_gives_back_what_was_saved(store: CheckpointStore) -> None:
    found = store.load_latest()
    assert found is not None
    step, loaded = found
    assert step == 20
    assert torch.equal(loaded["model"]["weight"], state(20)["model"]["weight"])
    assert {name: loaded[name] for name in ("step", "curve", "error")} == {
        "step": 20,
        "curve": [{"top1": 0.5}],
        "error": None,
    }


def test_the_digest_is_what_sha256sum_says(store: CheckpointStore) -> None:
    digest, name = digest_of(newest(store)).read_text().split()
    assert name == newest(store).name
    assert digest == hashlib.sha256(newest(store).read_bytes()).hexdigest()


def test_keeps_the_last_two_by_step(store: CheckpointStore) -> None:
    store.save(100, state(100))
    names = sorted(path.name for path in store.folder.iterdir())
    assert names == [
        "step_000000020.pt",
        "step_000000020.pt.sha256",
        "step_000000100.pt",
        "step_000000100.pt.sha256",
    ]


def test_a_step_can_be_saved_again(store: CheckpointStore) -> None:
    store.save(20, {"again": True})
    assert store.load_latest() == (20, {"again": True})


def test_nothing_there(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "absent")
    assert store.load_latest() is None
    store.clear()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_the_digest(path: Path) -> None:
    digest_of(path).unlink()


def wrong_digest(path: Path) -> None:
    digest_of(path).write_text("0" * 64 + f"  {path.name}\n")


def empty_digest(path: Path) -> None:
    digest_of(path).write_bytes(b"")


def garbage_digest(path: Path) -> None:
    digest_of(path).write_bytes(b"\xff\xfe")


def not_a_checkpoint(path: Path) -> None:
    """Intact by its digest, and still nothing that torch can load."""
    path.write_bytes(b"hello")
    digest_of(path).write_text(hashlib.sha256(b"hello").hexdigest())


def not_a_dictionary(path: Path) -> None:
    torch.save([1], path)
    digest_of(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest())


DAMAGES = [
    truncate,
    flip_a_bit,
    lose_the_digest,
    wrong_digest,
    empty_digest,
    garbage_digest,
    not_a_checkpoint,
    not_a_dictionary,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_older(
    store: CheckpointStore, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(newest(store))
    with caplog.at_level(logging.WARNING):
        found = store.load_latest()
    assert found is not None
    assert found[0] == 10
    assert len(caplog.records) == 1
    assert str(newest(store)) in caplog.text


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("damaged", [[8000], [8000, 9000], [7000, 8000, 9000]])
def test_what_is_saved_after_damage_is_kept(tmp_path: Path, keep: int, damaged: list[int]) -> None:
    """The run began again at 0, so what it saves is of an earlier step than what it passed over."""
    store = CheckpointStore(tmp_path, keep)
    for step in damaged:
        truncate(CheckpointStore(tmp_path, keep=9).save(step, state(step)))
    assert store.load_latest() is None
    for step in (500, 1000, 1500):
        saved = store.save(step, state(step))
        assert saved.exists()
        found = store.load_latest()
        assert found is not None
        assert found[0] == step
    kept = sorted(tmp_path.glob("*.pt"))
    assert [int(path.stem.removeprefix("step_")) for path in kept] == [500, 1000, 1500][-keep:]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, *map(digest_of, kept)])


def test_a_good_one_before_the_damage_is_kept(store: CheckpointStore) -> None:
    """The run continues at 10, where 20 is damaged, and saves 15."""
    truncate(newest(store))
    store.save(15, state(15))
    assert [path.name for path in sorted(store.folder.glob("*.pt"))] == ["step_000000010.pt", "step_000000015.pt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes."),
    ],
)
@pytest.mark.parametrize("place", ["digest", "content", "unpickling"])
def test_what_is_not_about_the_content_passes_through(
    store: CheckpointStore, error: Exception, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt may read the file: nothing is warned of, passed over or removed."""

    def failing(*_: object, **__: object) -> None:
        raise error

    before = sorted(store.folder.iterdir())
    owner, name = {"digest": (Path, "read_text"), "content": (Path, "open"), "unpickling": (torch, "load")}[place]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing)
        with pytest.raises(type(error)) as raised:
            store.load_latest()
    assert raised.value is error
    assert sorted(store.folder.iterdir()) == before
    found = store.load_latest()
    assert found is not None
    assert found[0] == 20


def test_all_damaged_is_nothing(store: CheckpointStore) -> None:
    for path in store.folder.glob("*.pt"):
        truncate(path)
    assert store.load_latest() is None


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))])
def test_runs_no_code_from_a_checkpoint(
    store: CheckpointStore, tmp_path: Path, write: Callable[[Any, Path], object]
) -> None:
    trace = tmp_path / "executed"
    write({"model": Malicious(trace)}, newest(store))
    digest_of(newest(store)).write_text(hashlib.sha256(newest(store).read_bytes()).hexdigest())
    found = store.load_latest()
    assert found is not None
    assert found[0] == 10
    assert not trace.exists()


def test_an_interrupted_write_is_not_a_checkpoint(store: CheckpointStore) -> None:
    half = store.folder / "step_000000030.pt.4711.tmp"
    half.write_bytes(newest(store).read_bytes()[:50])
    found = store.load_latest()
    assert found is not None
    assert found[0] == 20
    store.save(40, state(40))
    assert not half.exists()


def test_a_failed_save_leaves_the_older_ones(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(store.folder.iterdir())
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        store.save(30, {"cannot be pickled": lambda: None})
    assert sorted(store.folder.iterdir()) == before


def test_clear_removes_its_own_files_alone(store: CheckpointStore) -> None:
    other = store.folder / "notes.txt"
    other.write_text("mine")
    store.clear()
    assert list(store.folder.iterdir()) == [other]
    other.unlink()
    store.clear()
    assert not store.folder.exists()
