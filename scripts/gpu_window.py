"""Run conf/gpu_window.yaml, the first minutes on a GPU in order of value, and pack the results.

    python scripts/gpu_window.py dry_run=true                       the steps, and what is done
    python scripts/gpu_window.py minutes=12                         twelve minutes; the same command continues
    python scripts/gpu_window.py minutes=9 archive=/out/window.tar.gz parts=1,2

A trial without a GPU:

    python scripts/gpu_window.py minutes=2 device=cpu precision=default dataset=digits arch=small_cnn \
        protocol.epochs=2 "table.datasets=[digits]" "table.archs=[small_cnn]"

The archive (archive=, default gpu_window.tar.gz) is written again after every step and unpacks into any checkout:
records and outputs under results/, logs of runs under window/logs/. The folder window/ has what was carried here
(docs/reproduction.md says how): window/commit, which the records name; window/pieces/<data set>/, which are joined to
data/<data set>.npz with those of earlier calls; and window/sample/, the images of the tests.

Further words are those of train.py and hold for every run and output; those of table. are for the runs of tables. Exit
status: 0, also when the time is up; 1 a step failed; 2 a mistake in the command; 130 interrupted.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_preparation.pieces import join

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.repository import CONF
from llqr_sam.studies.gpu_window.step_list import StepList
from llqr_sam.suite.config.errors import UsageError, exit_status, say

CARRIED = Path("window")
ARCHIVE = "gpu_window.tar.gz"


def main() -> int:
    """Read the words, take what was carried here, carry out or show the list, pack the results."""
    steps = StepList(CONF / "gpu_window.yaml", sys.argv[1:], others=["archive"])
    if steps.shows:
        return steps.carry_out()
    paths = steps.config.paths
    take_settings()
    take_data(Path(paths.data))
    archive = Path(steps.own["archive"] or ARCHIVE)

    def pack_results() -> None:
        pack(archive, made_here(Path(paths.results), Path(paths.workspace)))

    def pack_if_possible() -> None:
        try:
            pack_results()
        except OSError as error:  # a full disk ends no other step
            say(f"failed: archive={archive}: {error.strerror}")

    try:
        pack_results()
    except OSError as error:
        raise UsageError(f"archive={archive} cannot be written: {error.strerror}.") from error
    return steps.carry_out(pack_if_possible)


def take_settings() -> None:
    """Hand the commit of this code and the folder of the tests' images to all processes of the list."""
    commit, sample = CARRIED / "commit", CARRIED / "sample"
    if commit.is_file():
        os.environ.setdefault("LLQR_SAM_COMMIT", commit.read_text().strip())
    if sample.is_dir():
        os.environ.setdefault("LLQR_SAM_DATA", str(sample.resolve()))


def take_data(root: Path) -> None:
    """Join the pieces of data sets with those of earlier calls; report one that fails, for other steps need no data.

    Args:
        root: Folder of the data sets.
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


def made_here(results: Path, workspace: Path) -> Iterator[tuple[Path, str]]:
    """Each file to pack and its name in the archive."""
    for pattern in ("runs/*/*.json", "timings/*.json", "bench/*"):
        for path in results.glob(pattern):
            yield path, str("results" / path.relative_to(results))
    for pattern in ("*/log.txt", "*/failure.json"):
        for path in workspace.glob(pattern):
            yield path, str(CARRIED / "logs" / path.relative_to(workspace))


def pack(archive: Path, files: Iterable[tuple[Path, str]]) -> None:
    """Write the archive, whole or not at all."""
    with replacing(archive) as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for path, name in sorted(files):
            tar.add(path, arcname=name, recursive=False)


if __name__ == "__main__":
    sys.exit(exit_status(main))
