"""Values that Hydra's grammar cannot read: quoted where their meaning is plain, else one line that says how."""

from __future__ import annotations

import re
import shlex

_KEY = re.compile(r"[~+@/:.$\w-]+", re.ASCII)
_READ_BY_HYDRA = re.compile(r"[\w/+.$%*@?|:\s-]*", re.ASCII)  # without quotes
_WITH_MEANING = set("'\"()[]{},=\\")  # of a list, a sweep, a function, a quoted text
_OF_THE_GRAMMAR = ("mismatched input", "extraneous input", "no viable alternative", "token recognition", "missing ")


def readable(word: str) -> str:
    """A ``key=value`` whose value Hydra can read: ``/data/größe`` is put in quotes."""
    key, equals, value = word.partition("=")
    if _WITH_MEANING & set(value) or _READ_BY_HYDRA.fullmatch(value):
        return word
    return f"{key}{equals}'{value}'"


def is_of_the_grammar(error: Exception) -> bool:
    """Whether Hydra could not read a word at all; it says so in the terms of its grammar."""
    return str(error).startswith(_OF_THE_GRAMMAR)


def how_to_write(word: str) -> str:
    """The line for a word that Hydra cannot read: what stands in the way, and the word as a shell takes it as text."""
    key, _, value = word.partition("=")
    if not _KEY.fullmatch(key):
        return f"{word} is not of the form key=value."
    if value.startswith("="):
        return f"{word} has more than one equals sign. Write {key}={value.lstrip('=')}."
    escaped = value.replace("\\", "\\\\") if value.endswith("\\") else value
    quote = '"' if '"' not in escaped else "'"
    text = quote + escaped.replace(quote, f"\\{quote}") + quote
    signs = " ".join(sign for sign in "='\"()[]{},\\" if sign in value)
    problem = (
        f"{word} cannot be read: {signs} in a value has a meaning of its own" if signs else f"{word} cannot be read"
    )
    return f"{problem}. If it is text, write {shlex.quote(f'{key}={text}')}."
