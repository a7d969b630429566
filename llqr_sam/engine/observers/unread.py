"""Output that nobody reads any more: of a closed ssh session, or piped into ``head``. It ends no run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

SIGPIPE_STATUS = 141  # a shell's word for a command that nobody reads


def let_go(stream: TextIO) -> None:
    """Let ``stream`` lead nowhere: what is printed from now on raises nothing, at the end of the process either."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def until_unread(main: Callable[[], int]) -> int:
    """Call ``main`` and return its exit status, or 141 as soon as nobody reads what it prints."""
    before, logging.raiseExceptions = logging.raiseExceptions, False  # it prints a traceback of a broken pipe
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return SIGPIPE_STATUS
    finally:
        logging.raiseExceptions = before
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                let_go(stream)


class StandardError:
    """Standard error, for rich: it leads nowhere once it cannot be written."""

    @property
    def _stream(self) -> TextIO:
        stream: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # a live bar of rich replaces it
        return stream

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            let_go(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            let_go(self._stream)
