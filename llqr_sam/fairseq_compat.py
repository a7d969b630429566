"""Import fairseq 0.12.2 on Python 3.11 and later.

fairseq's configuration classes use instances of each other as defaults. Since Python 3.11 ``dataclasses`` refuses a
default that cannot be hashed, so ``import fairseq`` fails. The import works if these classes get a hash; nothing else
in fairseq conflicts with current Python, NumPy, PyTorch, Hydra and OmegaConf.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HOW_TO_INSTALL = "fairseq is not installed; `make nmt` installs it."

_SCHEMA = "config.yaml"
_HARMLESS = (  # warnings of torch about fairseq's code
    "Support for mismatched key_padding_mask and attn_mask is deprecated",
    "The given NumPy array is not writable",
)


class MissingFairseqError(ImportError):
    """fairseq is not installed; the message says what installs it."""


def fairseq_installed() -> bool:
    """Whether fairseq can be found, without importing it."""
    return importlib.util.find_spec("fairseq") is not None


def ensure_fairseq() -> None:
    """Make ``import fairseq`` work; call it before any import of fairseq. The first call takes a second.

    Raises:
        MissingFairseqError: It is not installed.
    """
    if not fairseq_installed():
        raise MissingFairseqError(HOW_TO_INSTALL)
    with _hashable_dataclasses(), _restored_logging(), _restored_hydra():
        importlib.import_module("fairseq")
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def _hashable_dataclasses() -> Iterator[None]:
    """Give fairseq's data classes, and no others, a hash."""
    original: Any = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> type | Callable[[type], type]:
        if cls is None:
            return lambda decorated: dataclass(decorated, **options)  # type: ignore[return-value]
        of_fairseq = cls.__module__.partition(".")[0] == "fairseq"
        made: type = original(cls, **(options | {"unsafe_hash": True} if of_fairseq else options))
        return made

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextmanager
def _restored_hydra() -> Iterator[None]:
    """Undo fairseq's registration of a schema for ``config``, which Hydra would apply to every program's config."""
    from hydra.core.config_store import ConfigStore

    schemas = ConfigStore.instance().repo
    before = schemas.get(_SCHEMA)
    try:
        yield
    finally:
        if before is None:
            schemas.pop(_SCHEMA, None)
        else:
            schemas[_SCHEMA] = before


@contextmanager
def _restored_logging() -> Iterator[None]:
    """Silence messages below a warning, and undo fairseq's configuration of the root logger."""
    root = logging.getLogger()
    before, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.disable(disabled)
