"""Checks the words of a command line against conf/ and its schema.

A word is ``key=value``. If the key is a folder of conf/ (a group), the value is the name of a file in it (a choice).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache
from typing import Any, NoReturn, cast, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, ValueType
from hydra.errors import HydraException

from llqr_sam.repository import CONF
from llqr_sam.suite.config import own_files, sources
from llqr_sam.suite.config.errors import MISTAKES, UsageError, did_you_mean
from llqr_sam.suite.config.quoting import how_to_write, is_of_the_grammar, readable
from llqr_sam.suite.config.schema import GUESSES, Schema

_NOUNS = {
    "dataset": "a data set",
    "arch": "an architecture",
    "optim": "an optimizer",
    "structure": "a block structure",
    "launch": "a way to launch",
}


def checked_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of train.py, flags first, every word checked; an unknown one is a UsageError."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # argparse would print its usage and exit
    arguments = sources.taken(arguments)
    parsed_flags = parser.parse_intermixed_args(arguments)
    if parsed_flags.shell_completion:
        return list(arguments)  # install=bash is no key
    words = list(parsed_flags.overrides)
    flags = [argument for argument in arguments if argument not in words]
    return flags + list(checked_words(words))


def checked_words(words: Sequence[str]) -> dict[str, Override]:
    """Word -> Hydra's reading of it, with table numbers quoted: Hydra takes a bare ``table=2`` for an integer.

    A group, key or choice that does not exist is a UsageError.
    """
    words = list(map(readable, words))
    overrides = parsed(words)
    with_table = any(override.key_or_group == "table" for override in overrides)
    checked = [_checked(word, override, with_table) for word, override in zip(words, overrides, strict=True)]
    _check_files(choices(parsed(checked)), sources.own_file)
    kept = [word for word in checked if word != "table=null"]  # the default, and Hydra takes no null for a group
    return dict(zip(kept, parsed(kept), strict=True))


@contextmanager
def composing(words: Sequence[str]) -> Iterator[None]:
    """Name the file of a mistake that Hydra meets in composing: those of conf/ are not checked before."""
    try:
        yield
    except (*MISTAKES, yaml.YAMLError) as mistake:
        _check_files(choices(parsed(words)), lambda group, name: sources.files(group).get(name))
        if isinstance(mistake, yaml.YAMLError):
            raise own_files.not_yaml(mistake) from mistake
        raise


def _check_files(chosen: dict[str, list[str]], find: own_files.Find) -> None:
    """Check the files that ``find`` has of the choices, and the words of those that are tables."""
    for file in own_files.used(chosen, find):
        with file.named():
            for word, override in checked_words([word for word in file.words if not word.startswith("table=")]).items():
                if override.is_sweep_override():
                    raise UsageError(f"words: {word} has several values, and a table's word has one.")


def choices(overrides: Iterable[Override]) -> dict[str, list[str]]:
    """Group -> the names of the files that words choose."""
    return {each.key_or_group: values(each) for each in overrides if each.key_or_group in groups()}


def merged(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """Both lists of words; of each key the last word."""
    return list({word.partition("=")[0]: word for word in (*own, *given)}.values())


def values(override: Override) -> list[str]:
    """The value of a word, or the values it sweeps over, as text without quotes."""
    if override.is_sweep_override():
        return [str(value).strip("'\"") for value in override.sweep_string_iterator()]
    value = override.value()
    return ["null" if value is None else str(value)]


@sources.cached
def groups() -> dict[str, tuple[str, ...]]:
    """The groups, which are the folders of conf/, and the choices of each, the user's among them."""
    names = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    return {name: tuple(sorted(sources.files(name))) for name in names}


@cache
def keys() -> frozenset[str]:
    """Every dotted key of the schema; ``a.*`` stands for any name after ``a.``."""
    return frozenset(_keys(Schema))


def parsed(words: Sequence[str]) -> list[Override]:
    """Hydra's reading of each word."""
    return [_parse(word) for word in words]


@cache
def _parse(word: str) -> Override:
    key, _, value = word.partition("=")
    if not key or ("=" not in word and not word.startswith("~")):
        raise UsageError(f"{word} is not of the form key=value.")
    if not value and not word.startswith(("~", "hydra")):
        raise UsageError(f"{word} has no value.")
    try:
        return OverridesParser.create().parse_override(readable(word))
    except HydraException as error:
        if is_of_the_grammar(error):
            raise UsageError(how_to_write(word)) from error
        raise


def _checked(word: str, override: Override, with_table: bool) -> str:
    key = override.key_or_group
    if key.partition(".")[0].partition("/")[0] == "hydra":
        return word
    if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
        raise UsageError(f"{word} is not possible: the keys are fixed. Write key=value.")
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return _expanded(word, override)
    if key in groups():
        chosen, known = values(override), groups()[key]
        for value in chosen:
            if value not in known and (key, value) != ("table", "null"):
                noun = _NOUNS.get(key, f"a {key}")
                remedy = f"Choose from: {', '.join(known)}{did_you_mean(value, known)}"
                raise UsageError(f"{key}={value} is not {noun} here. {remedy}")
        return f"{key}={','.join(map(repr, chosen))}" if key == "table" and chosen != ["null"] else word
    if key.endswith(".name") and key.partition(".")[0] in groups():
        group = key.partition(".")[0]
        raise UsageError(f"{word} is not possible: choose with {group}={values(override)[0]}.")
    is_open = bool(keys().intersection((f"{key}.*", f"{key.rpartition('.')[0]}.*")))
    if key not in keys() and not is_open:
        raise UsageError(guessed(key, values(override)[0]) or unknown(key))
    if key.startswith("table.") and not with_table:
        raise UsageError(f"{word} needs a table. Choose one with table= from: {', '.join(groups()['table'])}.")
    return f"++{word}" if is_open else word  # Hydra adds no key to a dictionary without it


def guessed(key: str, value: str) -> str | None:
    """The message for what people call a key of ``launch``, with or without ``launch.`` before it."""
    name = key.removeprefix("launch.")
    if f"launch.{name}" in keys() and name != "name":
        return f"{key} is not a key: write launch.{name}={value}."
    return f"{key} is not a key: {GUESSES[name].format(n=value)}." if name in GUESSES else None


def _expanded(word: str, override: Override) -> str:
    """``optim=sam,asam`` for ``optim=glob(*sam)``: Hydra would list the files only after the runs are planned."""
    key = override.key_or_group
    if key not in groups():
        raise UsageError(f"{word} is not possible: glob() chooses files, and only {', '.join(groups())} have some.")
    given = cast(Glob, override.value())
    patterns = Glob([*map(str, given.include)], [*map(str, given.exclude)])  # Hydra reads 2 as a number
    if not (chosen := patterns.filter(list(groups()[key]))):
        raise UsageError(f"{word} matches none of {key}'s choices: {', '.join(groups()[key])}.")
    return f"{key}={','.join(map(repr, chosen) if key == 'table' else chosen)}"


def unknown(key: str, others: Iterable[str] = ()) -> str:
    """The message for an unknown key: lists the keys beside it, or the top-level keys if its parent is unknown too.

    ``others`` are top-level keys that a script has beside those of conf/.
    """
    parent, _, name = key.rpartition(".")
    if parent not in keys():
        parent, name = "", key
    known = keys() if parent else keys().union(others)
    beside = sorted(key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent)
    where = f"in {parent}" if parent else "here"
    deeper = [group for group in ("optim", "protocol", "arch", "dataset") if f"{group}.{name}" in keys()]
    meant = f" (did you mean {deeper[0]}.{name}?)" if deeper and not parent else did_you_mean(name, beside)
    return f"unknown key {key}. Keys {where}: {', '.join(beside)}{meant}"


def _keys(kind: type[Any], prefix: str = "") -> Iterable[str]:
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if get_origin(hint) is dict:
            yield f"{prefix}{name}.*"
        for option in (hint, *get_args(hint)):  # get_args: of ``TableConfig | None``
            if isinstance(option, type) and is_dataclass(option) and get_origin(hint) is not list:
                yield from _keys(option, f"{prefix}{name}.")


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}.")
