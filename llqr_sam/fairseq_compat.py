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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
    """Make ``import fairseq`` work, or raise ``MissingFairseqError``; call it before any import of fairseq."""
    if not fairseq_installed():
        raise MissingFairseqError(HOW_TO_INSTALL)
    with _restored():
        dataclasses.dataclass = partial(_hashable, dataclasses.dataclass)
        logging.disable(logging.INFO)
        importlib.import_module("fairseq")
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)


def _hashable(original: Any, cls: type | None = None, /, **options: Any) -> Any:
    """``dataclasses.dataclass``, with a hash for fairseq's classes and no others."""
    if cls is None:
        return lambda decorated: _hashable(original, decorated, **options)
    of_fairseq = cls.__module__.partition(".")[0] == "fairseq"
    return original(cls, **(options | {"unsafe_hash": True} if of_fairseq else options))


@contextmanager
def _restored() -> Iterator[None]:
    """Undo what the import does to ``dataclasses``, to the root logger and to Hydra.

    fairseq registers a schema for ``config``, which Hydra would apply to every program's config.
    """
    from hydra.core.config_store import ConfigStore

    schemas, root = ConfigStore.instance().repo, logging.getLogger()
    schema = {name: node for name, node in schemas.items() if name == _SCHEMA}
    decorator, handlers, level, disabled = dataclasses.dataclass, list(root.handlers), root.level, root.manager.disable
    try:
        yield
    finally:
        dataclasses.dataclass = decorator
        schemas.pop(_SCHEMA, None)
        schemas.update(schema)
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
