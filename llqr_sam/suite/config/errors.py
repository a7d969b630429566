"""Turns a mistake in a command into one line on standard error and exit status 2."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from hydra.errors import HydraException
from omegaconf import ValueNode
from omegaconf.errors import OmegaConfBaseException, ValidationError

from llqr_sam.engine.observers.unread import let_go, until_unread

T = TypeVar("T")

FULL_ERROR = "HYDRA_FULL_ERROR"  # with 1 Hydra raises its errors, where it would print several lines and exit
_TRACEBACK_WANTED = os.environ.get(FULL_ERROR) == "1"

_KINDS = {  # what OmegaConf says -> what the value must be
    "could not be converted to Float": "a number",
    "could not be converted to Integer": "a whole number",
    "is not a valid bool": "true or false",
    "is not Optional": "set",
    "is not a subclass of": "a group of keys",
    "is not a ListConfig": "a list",
    "Cannot convert 'ListConfig'": "one value",
}


class UsageError(ValueError):
    """A mistake in the command: the message is one sentence with key, value and remedy."""


MISTAKES = (UsageError, HydraException, OmegaConfBaseException)  # ours, Hydra's and OmegaConf's


class JobError(RuntimeError):
    """A job in another process failed: the message is one line that says where to look."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Makes a UsageError of each ValueError; ``@usage_errors()`` does so for a function."""
    try:
        yield
    except MISTAKES:  # OmegaConf's own are ValueErrors too, and know their key
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def exit_status(main: Callable[[], int]) -> int:
    """Runs ``main`` and returns its exit status.

    A mistake in the command is printed as ``error: <sentence>`` and gives status 2, a ``JobError`` gives 1, Ctrl-C 130,
    output that nobody reads (``| head``) 141.
    With HYDRA_FULL_ERROR=1 in the environment a mistake is raised with its traceback instead.
    """
    before = os.environ.get(FULL_ERROR, "0")
    os.environ[FULL_ERROR] = "1"
    try:
        return until_unread(main)
    except MISTAKES as error:
        if _TRACEBACK_WANTED:
            raise
        say(f"error: {explain(error)}")
        return 2
    except JobError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        os.environ[FULL_ERROR] = before


def say(*lines: str) -> None:
    """Prints lines on standard error at once, if anybody can read it."""
    for line in lines:
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            let_go(sys.stderr)


def try_each(works: Mapping[str, Callable[[], T]]) -> tuple[list[T], list[str]]:
    """Calls each function, for a command that names none of them: its words need not fit all.

    Returns the results of those that succeed, and a line with name and reason for each of the others. Raises the first
    one's mistake if none succeeds.
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
    """The line for something that cannot take the words of a command."""
    return f"{name} passed over: {explain(mistake)}"


def explain(error: BaseException) -> str:
    """One line for an error from ``MISTAKES``."""
    if isinstance(error, UsageError):
        return " ".join(str(error).split())
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(cause, ValidationError):
        return _wrong_type(cause)
    first, _, rest = str(error).partition("\n")
    if first.endswith("raised while composing config:") and rest:
        reason = rest.partition("\n")[0].rstrip(".")
        return f"{first.partition(':')[0]}: {reason}."
    if isinstance(cause, OmegaConfBaseException):
        reason = str(cause.msg or cause).partition("\n")[0]
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
    found = error.value._value() if isinstance(error.value, ValueNode) else error.value
    value = " ".join(str(found).split())
    remedy = f". Write {error.full_key}=[{value}]." if kind == "a list" and isinstance(found, str) else "."
    return f"{error.full_key}={value} must be {kind}, not of type {type(found).__name__}{remedy}"
