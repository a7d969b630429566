from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from llqr_sam.engine.records.provenance import VARIABLE, commit_label, git_state, packages


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, and the tracked folder ``package`` in it."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_clean_checkout(checkout: Path) -> None:
    assert git_state(checkout / "package") == (git(checkout, "rev-parse", "HEAD"), False)


def test_changed_and_new_code_is_dirty_and_results_are_not(checkout: Path) -> None:
    (checkout / "results.json").write_text("{}")
    assert not git_state(checkout / "package")[1]
    (checkout / "package" / "new.py").write_text("")
    assert git_state(checkout / "package")[1]
    (checkout / "package" / "new.py").unlink()
    (checkout / "package" / "code.py").write_text("x = 2\n")
    assert git_state(checkout / "package")[1]


def test_somebody_elses_repository_says_nothing(checkout: Path) -> None:
    installed = checkout / "site-packages"
    installed.mkdir()
    (installed / "code.py").write_text("")
    assert git_state(installed) == (None, False)


def test_no_checkout_no_commit_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) == (None, False)
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == (None, False)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == (None, False)


COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_code_without_a_checkout_is_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, state in ((COMMIT, (COMMIT, False)), (f"{COMMIT}-dirty", (COMMIT, True)), ("", (None, False))):
        monkeypatch.setenv(VARIABLE, value)
        assert git_state(tmp_path) == state


@pytest.mark.parametrize("value", ["main", COMMIT[:7], COMMIT.upper(), f"{COMMIT}+", f"{COMMIT}\n", f" {COMMIT}"])
def test_what_is_no_commit_is_refused(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match="^LLQR_SAM_COMMIT='.*' must be a commit of 40 hexadecimal digits"):
        git_state(tmp_path)


@pytest.mark.parametrize("value", [COMMIT, f"{COMMIT}-dirty", "main"])
def test_a_checkout_knows_better_than_the_environment(
    value: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = git_state(checkout / "package")
    monkeypatch.setenv(VARIABLE, value)
    assert git_state(checkout / "package") == plain


def test_versions() -> None:
    versions = packages()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "numpy"} <= set(versions)


def test_a_commit_is_shown_short_with_a_mark_where_files_were_changed():
    shown = [commit_label("7310066" + "a" * 33, dirty) for dirty in (False, True)]
    assert [*shown, commit_label(None, False)] == ["7310066", "7310066+", "unknown"]
