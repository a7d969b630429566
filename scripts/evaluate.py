"""Score kept weights again on the test set of their run, and compare with the run's record.

python scripts/evaluate.py digits-small_cnn-sam-s0               or a record, or a run's folder in the workspace
python scripts/evaluate.py RUN sharpness=true                    and how flat the training loss is there
python scripts/evaluate.py RUN weights=best                      of the best evaluation (translation)
python scripts/evaluate.py RUN dataset.path=/scratch/cifar100.npz device=cuda

A run keeps its weights where it was trained with keep_weights=true. Other words of train.py that are possible here:
paths.data=, paths.results=, paths.workspace=, dataset.workers=, sharpness_samples=.
"""

from __future__ import annotations

import argparse
import sys

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, did_you_mean, exit_status
from llqr_sam.suite.run.lookup import find_run
from llqr_sam.suite.weights.evaluation import evaluate

WORDS = ("plugins", "dataset.path", "dataset.workers", "device", "sharpness", "sharpness_samples")
PATHS = ("paths.data", "paths.results", "paths.workspace")


def main() -> int:
    """Evaluate one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="RUN [key=value]", help="a run, and where and how")
    given: list[str] = parser.parse_args().words
    runs, words = [word for word in given if "=" not in word], [word for word in given if "=" in word]
    if len(runs) != 1:
        raise UsageError(f"one run is evaluated, not {len(runs)}: scripts/evaluate.py RUN.")
    best = "weights=best" in words
    words = [word for word in words if word not in ("weights=best", "weights=last")]
    for word in words:
        key, known = word.partition("=")[0], (*WORDS, *PATHS, "weights")
        if key == "weights":
            raise UsageError(f"{word} is not possible. Choose from: weights=last, weights=best.")
        if key not in known:
            remedy = f"Possible are {', '.join(known)}{did_you_mean(key, known)}"
            raise UsageError(f"{word} has no use here: the settings of a run are in its record. {remedy}")
    command = Command.of(*words)
    run = find_run(runs[0], command.config.paths.results, command.config.paths.workspace)
    print(*evaluate(run, command, best=best).lines(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
