"""What a person who mistyped something reads: one line, and exit status 2."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException, ValidationError

T = TypeVar("T")

_TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") == "1"

_KINDS = {
    "could not be converted to Float": "a number",
    "could not be converted to Integer": "a whole number",
    "is not a valid bool": "true or false",
    "is not Optional": "set",
    "is not a subclass of": "a group of keys",
}


class UsageError(ValueError):
    """A mistake of the person who typed the command: the message is one sentence with key, value and choices."""


MISTAKES = (UsageError, HydraException, OmegaConfBaseException)  # of the command, by whoever finds them


class JobError(RuntimeError):
    """A job in another process ended badly, without a mistake in the command: one line that says where to look."""


def exit_status(main: Callable[[], int]) -> int:
    """Run ``main``; a mistake in the command becomes ``error: <sentence>`` on standard error and status 2, 1 for a job.

    With HYDRA_FULL_ERROR=1 in the environment the exception passes through with its traceback.
    """
    try:
        with _exceptions_from_hydra():
            return main()
    except MISTAKES as error:
        if _TRACEBACK_WANTED:
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def try_each(works: Mapping[str, Callable[[], T]]) -> tuple[list[T], list[str]]:
    """Do several things that a command did not name one by one, so that its words need not fit all of them.

    Args:
        works: Name of a thing -> what does it, in order.

    Returns:
        What those gave that could be done, and a line for each of the others: name and reason.

    Raises:
        UsageError: nothing could be done (or an error of Hydra or OmegaConf): the first thing's mistake.
    """
    done: list[T] = []
    mistakes: dict[str, Exception] = {}
    for name, work in works.items():
        try:
            done.append(work())
        except MISTAKES as mistake:
            mistakes[name] = mistake
    if mistakes and not done:
        raise next(iter(mistakes.values()))
    return done, [passed_over(name, mistake) for name, mistake in mistakes.items()]


def passed_over(name: str, mistake: Exception) -> str:
    """A line for what cannot take the words of a command that did not name it."""
    return f"{name} passed over: {explain(mistake)}"


@contextmanager
def _exceptions_from_hydra() -> Iterator[None]:
    """Inside, Hydra raises its errors; otherwise it would print several lines and exit."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def explain(error: BaseException) -> str:
    """One line for an error of ours, of Hydra or of OmegaConf."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(cause, ValidationError):
        return _wrong_type(cause)
    first = str(error).partition("\n")[0]
    if isinstance(cause, OmegaConfBaseException):
        reason = str(cause.msg).partition("\n")[0]
        key = f"{cause.full_key}: " if cause.full_key else ""
        return f"{key}{reason}" if cause is error else f"{first.rstrip('.')}: {reason}"
    if first.startswith("Ambiguous value"):
        return f"{first}: add -m to run each of the values."
    return first if isinstance(error, HydraException) else " ".join(str(error).split())


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean sam?)``, or a full stop when no choice is close."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else "."


def _wrong_type(error: ValidationError) -> str:
    message = str(error.msg).partition("\n")[0]
    kind = next((kind for phrase, kind in _KINDS.items() if phrase in message), None)
    if kind is None:
        return f"{error.full_key}: {message}"
    if error.value is None:
        return f"{error.full_key}=null must have a value."
    value = " ".join(str(error.value).split())
    return f"{error.full_key}={value} must be {kind}, not of type {type(error.value).__name__}."
