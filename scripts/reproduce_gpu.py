"""Run conf/reproduction.yaml, the paper's numbers in order of value, for as long as there is time.

    python scripts/reproduce_gpu.py dry_run=true                 the list, and what of it is done
    python scripts/reproduce_gpu.py minutes=10                   ten minutes of it; the same command goes on from there
    python scripts/reproduce_gpu.py parts=1,3                    some of its parts
    python scripts/reproduce_gpu.py retry=failed                 runs that failed or diverged too, each once a call
    python scripts/reproduce_gpu.py dataset.path=/data/cifar100.npz precision.compile=false

Further words are those of train.py and hold for every run, in place of the list's own; status=true is dry_run=true.
Exit status: 0, also when the time is up; 1 something failed; 2 a mistake in the command; 130 interrupted. After any of
them the same command goes on with what is left. A run that failed is left alone until retry=failed is among the words.
"""

from __future__ import annotations

import math
import sys

from llqr_sam.suite.errors import UsageError, exit_status
from llqr_sam.suite.reproduction import Reproduction
from llqr_sam.suite.words import keys, unknown


def main() -> int:
    """Read the words, run or show the list."""
    own = {"minutes": "", "parts": ""}
    words = []
    for word in sys.argv[1:]:
        key, equals, value = word.partition("=")
        if key in own:
            own[key] = value
        elif equals and key.isidentifier() and key not in keys():
            raise UsageError(unknown(key, own))
        else:
            words.append(word)
    minutes, parts = _minutes(own["minutes"]), _numbers(own["parts"])
    reproduction = Reproduction(words, parts)
    config = reproduction.config
    status = 0 if config.dry_run or config.status else reproduction.run(minutes)
    print(*reproduction.lines(), sep="\n")
    return status


def _minutes(text: str) -> float | None:
    try:
        minutes = float(text) if text else None
    except ValueError:
        minutes = math.nan
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"minutes={text} must be a number > 0.")
    return minutes


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if text]
    except ValueError as error:
        raise UsageError(f"parts={text} must be numbers of parts, like parts=1,3.") from error


if __name__ == "__main__":
    sys.exit(exit_status(main))
