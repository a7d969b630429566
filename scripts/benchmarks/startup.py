"""What a command costs before it does anything: ``train.py table=2 dry_run=true`` in units of ``import torch``.

    python scripts/benchmarks/startup.py

Runs both commands five times in turn and prints the medians and their ratio, which is to stay below 3.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5


def main() -> None:
    """Time both commands in turn and print the medians."""
    with tempfile.TemporaryDirectory() as folder:
        plan = ["train.py", "table=2", "dry_run=true", f"paths.results={folder}", f"paths.workspace={folder}"]
        commands = {"import torch": ["-c", "import torch"], "train.py table=2 dry_run=true": plan}
        times = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
                times[name].append(time.perf_counter() - start)
    medians = [statistics.median(seconds) for seconds in times.values()]
    for name, median in zip(times, medians, strict=True):
        print(f"{name}: {median:.2f} s")
    print(f"ratio: {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
