"""The folders that configuration files come from: conf/, then the user's, which are laid out like it.

``-cd DIR``, ``--config-dir=DIR`` and ``hydra.searchpath=[DIR,...]`` name them. A process sets them once, at its start.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from llqr_sam.repository import CONF, PROFILES
from llqr_sam.suite.config.errors import UsageError

FLAGS = ("-cd", "--config-dir")
SEARCH_PATH = "hydra.searchpath"
P = ParamSpec("P")
T = TypeVar("T")

_own: tuple[Path, ...] = ()


def folders() -> tuple[Path, ...]:
    """conf/, then the user's folders."""
    return (CONF, *_own)


def flags() -> list[str]:
    """The arguments that name the user's folders, for a command that is shown."""
    return [word for folder in _own for word in (FLAGS[0], shown(folder))]


def use(*own: Path) -> None:
    """Take the user's folders, in the place of those before; none: conf/ alone.

    UsageError if one is no folder, or has a file that conf/, slurm/ or an earlier one of them has: Hydra would take the
    first and say nothing.
    """
    global _own
    absolute = {path.expanduser().resolve(): path for path in own}
    seen = dict(_named(CONF)) | {path.relative_to(PROFILES.parent): path for path in PROFILES.glob("*.yaml")}
    for folder, given in absolute.items():
        if not folder.is_dir():
            raise UsageError(f"{FLAGS[1]}={given} is not a folder.")
        for name, path in _named(folder):
            if seen.setdefault(name, path) != path:
                raise UsageError(f"{shown(path)} has the name of {shown(seen[name])}: give it another.")
    _own = tuple(absolute)


def _named(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Name -> file, of the files in a folder that the suite may read; a user's folder may have more than these."""
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    for pattern in ("*.yaml", *(f"{group}/**/*.yaml" for group in (*groups, PROFILES.name))):
        yield from ((path.relative_to(folder), path) for path in sorted(folder.glob(pattern)))


def taken(arguments: Sequence[str]) -> list[str]:
    """Take the folders that the arguments of a command name; returns the other arguments."""
    own: list[Path] = []
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if argument in FLAGS:
            if (following := next(remaining, None)) is None:
                raise UsageError(f"{argument} names no folder. Write {argument} DIR.")
            own.append(Path(following))
        elif equals and flag == FLAGS[1]:
            own.append(Path(value))
        elif flag == SEARCH_PATH:
            own += _search_path(argument)
        else:
            others.append(argument)
    use(*own)
    return others


def parsed_arguments(parser: ArgumentParser) -> Namespace:
    """What ``parser`` makes of a script's arguments, without those that name folders: these are taken."""
    parser.add_argument(*FLAGS, metavar="DIR", help="a folder of your own configuration files (docs/extending.md)")
    return parser.parse_intermixed_args(taken(sys.argv[1:]))


class _Source(Protocol):
    path: str
    provider: str


def adopt(sources: Iterable[_Source]) -> None:
    """Take the folders that Hydra composed from (``hydra.runtime.config_sources``), in a process that it started."""
    use(*(Path(source.path) for source in sources if source.provider == _Folders.__name__))


def files(group: str) -> dict[str, Path]:
    """Choice -> its file, from all folders."""
    return {path.stem: path for folder in folders() for path in sorted((folder / group).glob("*.yaml"))}


def own_file(group: str, choice: str) -> Path | None:
    """The user's file of a choice; ``None`` if it is one of conf/, or there is none."""
    return next((path for folder in _own if (path := folder / group / f"{choice}.yaml").is_file()), None)


def profiles() -> dict[str, Path]:
    """Name -> SLURM profile, from slurm/ and from the folder of that name in the user's folders."""
    places = (PROFILES, *(folder / PROFILES.name for folder in _own))
    return {path.stem: path for place in places for path in sorted(place.glob("*.yaml"))}


def shown(path: Path) -> str:
    """A path as messages write it: relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def cached(function: Callable[P, T]) -> Callable[P, T]:
    """``functools.cache`` for what is read from the folders: other folders, another result."""
    known: Callable[..., T] = cache(lambda _folders, *args, **kwargs: function(*args, **kwargs))

    @wraps(function)
    def lookup(*args: P.args, **kwargs: P.kwargs) -> T:
        return known(folders(), *args, **kwargs)

    return lookup


def _search_path(word: str) -> list[Path]:
    """The folders of ``hydra.searchpath=[DIR,file://DIR]``."""
    value = OverridesParser.create().parse_override(word).value()
    if not isinstance(value, list):
        raise UsageError(f"{word} must be a list: {SEARCH_PATH}=[{value}].")
    paths = [str(path).removeprefix("file://") for path in value]
    for path in paths:
        if "://" in path:
            raise UsageError(f"{SEARCH_PATH}=[{path}] is not possible: only folders are, written as paths.")
    return [Path(path) for path in paths]


class _Folders(SearchPathPlugin):
    """Tells Hydra of the user's folders, whenever it begins to compose."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in _own:
            search_path.append(type(self).__name__, str(folder))


Plugins.instance().register(_Folders)
