"""What is not yet uploaded to Weights & Biases: offline files of finished runs, rendered tables, the page of results.

Each attempt at a run writes ``<workspace>/<run_id>/wandb/offline-run-<time>-<run_id>/`` with all rows since the first,
so only the newest is uploaded. ``wandb sync`` then writes ``run-<id>.wandb.synced`` beside it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llqr_sam.engine.observers.wandb_logger import note_url, open_run
from llqr_sam.suite.run.lock import holder

TABLES = "tables"  # folder of the workspace: rendered tables, and the page
PAGE = Path("report", "index.html")  # in the folder of results; `make report` writes it
LIMIT = 600.0  # seconds for one upload


class UploadError(RuntimeError):
    """W&B did not accept a run: the message is one line."""


def run_id_of(path: Path) -> str:
    """Id of a run, in W&B and in the record, from its file ``run-<id>.wandb``."""
    return path.stem.removeprefix("run-")


def upload(path: Path) -> None:
    """Call ``wandb sync`` for a file ``run-<id>.wandb``, and note a run's URL in its folder (``wandb_logger.url_of``).

    Raises:
        UploadError: W&B did not accept it, or did not answer for ``LIMIT`` seconds.
    """
    command = [sys.executable, "-m", "wandb", "sync", str(path.parent)]
    null, pipe, both = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    try:
        done = subprocess.run(command, stdin=null, stdout=pipe, stderr=both, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise UploadError(f"{run_id_of(path)}: wandb sync has not ended after {LIMIT:.0f} seconds") from error
    if not _is_uploaded(path):  # W&B's exit status does not say so: without an account it is 0
        reason = (done.stdout.strip().splitlines() or [f"wandb sync ended with status {done.returncode}"])[-1]
        raise UploadError(f"{run_id_of(path)}: {reason}")
    folder = path.parents[2]
    if folder.name != TABLES:
        note_url(folder, _url_in(done.stdout, run_id_of(path)))


def _url_in(output: str, run_id: str) -> str | None:
    """URL of the run: "View run <name> at <url>" says wandb 0.31, older ones "Syncing: <url> ... done."."""
    found = re.search(rf"https?://\S+/runs/{re.escape(quote(run_id))}\b", output)
    return found.group() if found else None


def _is_uploaded(path: Path) -> bool:
    """Whether ``wandb sync`` has uploaded it, called here or by hand."""
    return path.with_name(f"{path.name}.synced").exists()


def waiting(results: Path, workspace: Path, stale_minutes: float) -> Iterator[Path]:
    """What to upload: the newest file of each finished run, table or page that is not uploaded, by name."""
    finished = {path.stem for path in (results / "runs").glob("*/*.json")}
    files = sorted(workspace.glob("*/wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)
    for _, path in sorted({path.stem: path for path in files}.items()):
        folder = path.parents[2]
        done = folder.name == TABLES or (run_id_of(path) in finished and not holder(folder, stale_minutes))
        if done and not _is_uploaded(path):
            yield path


def log_table(name: str, files: Iterable[Path], project: str, workspace: Path) -> None:
    """Make an offline W&B run with the files of a rendered table as the artifact ``name``; equal files make one run."""
    run = _new_run(name, "table", files, project, workspace)
    if run is not None:
        run.finish()


def log_page(page: Path, project: str, workspace: Path) -> None:
    """Make an offline W&B run that shows the page, and has it as the artifact ``report``; equal pages make one run."""
    run = _new_run("report", "report", [page], project, workspace)
    if run is not None:
        import wandb

        run.log({"report": wandb.Html(str(page), inject=False)})  # as it is: W&B's head would need a network
        run.finish()


def _new_run(name: str, kind: str, files: Iterable[Path], project: str, workspace: Path) -> Any:
    """An offline W&B run with ``files`` as an artifact, still open; ``None`` if equal files have one."""
    contents = {path: path.read_bytes() for path in files}
    digest = hashlib.sha256(b"".join(contents.values())).hexdigest()[:8]
    folder, run_id = workspace / TABLES, f"{name}-{digest}"
    if any(folder.glob(f"wandb/offline-run-*-{run_id}")):
        return None
    run = open_run(folder, id=run_id, name=run_id, project=project, mode="offline", job_type=kind, tags=[name])
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for path in contents:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
    return run
