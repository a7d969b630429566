"""Run conf/gpu_window.yaml, what a few minutes on a GPU are for, in order of value, and pack what it made.

    python scripts/gpu_window.py dry_run=true                       the steps, and what of them is done
    python scripts/gpu_window.py minutes=12                         twelve minutes; the same command goes on from there
    python scripts/gpu_window.py minutes=9 archive=/out/window.tar.gz parts=1,2

A trial without a GPU:

    python scripts/gpu_window.py minutes=2 device=cpu precision=default dataset=digits arch=small_cnn \
        protocol.epochs=2 "table.datasets=[digits]" "table.archs=[small_cnn]"

The archive (archive=, default gpu_window.tar.gz) is made anew every 15 seconds and unpacks into any checkout: records
and outputs under results/, logs of runs under window/logs/. What was carried here is taken from window/
(docs/reproduction.md says who puts it there): window/commit, which the records get; window/pieces/<data set>/, which
are joined to data/<data set>.npz with those of earlier calls; and window/sample/, the images of the tests.

Further words are those of train.py and hold for every run and output; those of table. are for the runs of tables. Exit
status: 0, also when the time is up; 1 a step failed; 2 a mistake in the command; 130 interrupted.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from llqr_sam.data.pieces import join
from llqr_sam.repository import CONF
from llqr_sam.studies.gpu_window.archive import archived
from llqr_sam.studies.gpu_window.list_command import ListCommand
from llqr_sam.suite.config.errors import UsageError, exit_status

CARRIED = Path("window")
ARCHIVE = "gpu_window.tar.gz"


def main() -> int:
    """Take what was carried here, read the words, run or show the list, pack the results."""
    command = ListCommand(CONF / "gpu_window.yaml", sys.argv[1:], others=["archive"])
    if command.shows:
        return command.carry_out()
    paths = command.steps.config.paths
    take_settings()
    take_data(Path(paths.data))
    archive = Path(command.own["archive"] or ARCHIVE)
    with ExitStack() as stack:
        try:
            stack.enter_context(archived(archive, lambda: packed(Path(paths.results), Path(paths.workspace))))
        except OSError as error:
            raise UsageError(f"archive={archive} cannot be written: {error.strerror}.") from error
        return command.carry_out()


def take_settings() -> None:
    """The commit of this code and the place of the tests' images, for all processes of the list."""
    commit, sample = CARRIED / "commit", CARRIED / "sample"
    if commit.is_file():
        os.environ.setdefault("LLQR_SAM_COMMIT", commit.read_text().strip())
    if sample.is_dir():
        os.environ.setdefault("LLQR_SAM_DATA", str(sample.resolve()))


def take_data(root: Path) -> None:
    """Add the pieces that came now to those of earlier calls, and join them; the steps go on without what is not whole.

    Args:
        root: Where data sets are.
    """
    for carried in sorted((CARRIED / "pieces").glob("*/")):
        pieces, archive = root / "pieces" / carried.name, root / f"{carried.name}.npz"
        try:
            shutil.copytree(carried, pieces, dirs_exist_ok=True)
            joined = join(pieces, archive)
        except (ValueError, OSError, shutil.Error) as error:
            say(f"failed: the pieces of {carried.name}: {error}")
        else:
            say(f"{archive} has {joined}")


def packed(results: Path, workspace: Path) -> Iterator[tuple[Path, str]]:
    """Records, times and outputs of scripts under ``results/``, logs and failures of runs under ``window/logs/``."""
    for pattern in ("runs/*/*.json", "timings/*.json", "bench/*"):
        for path in results.glob(pattern):
            yield path, str("results" / path.relative_to(results))
    for name in ("log.txt", "failure.json"):
        for path in workspace.glob(f"*/{name}"):
            yield path, str(CARRIED / "logs" / path.relative_to(workspace))


def say(line: str) -> None:
    """To whoever waits."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
