"""Everything that ``from llqr_sam import ...`` gives can be used without reading its code.

A docstring has "Args:" naming each parameter (a class has those of its constructor), "Returns:" if something comes
back, and "Raises:" if the body raises. Two may say what they return in their first line, "Returns ...": properties, and
functions that return a plain value (bool, int, a dict of state). Nothing sends the reader elsewhere with "See".
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import llqr_sam

PLAIN = {"bool", "int", "str", "float", "dict[str, Any]"}


def _public() -> Iterator[tuple[str, Any]]:
    """The classes, and their own and inherited methods and properties that the package defines."""
    for name in llqr_sam.__all__:
        kind = getattr(llqr_sam, name)
        yield name, kind
        for attribute in dir(kind):
            member = inspect.getattr_static(kind, attribute)
            function = _function(member)
            hidden = attribute.startswith("_") and attribute != "__call__"
            if function is not None and not hidden and function.__module__.startswith("llqr_sam"):
                yield f"{name}.{attribute}", member


def _function(member: Any) -> Callable[..., Any] | None:
    if isinstance(member, property):
        return member.fget
    function = getattr(member, "__func__", member)
    return inspect.unwrap(function) if inspect.isfunction(function) else None


def _parameters(thing: Any) -> list[str]:
    """The names of the parameters; those of the constructor for a class that has one here."""
    function = thing.__init__ if inspect.isclass(thing) else _function(thing)
    if inspect.isclass(thing) and "__init__" not in vars(thing):
        return []
    return [name for name in inspect.signature(function).parameters if name not in ("self", "args", "kwargs")]


def _raises(thing: Any) -> bool:
    function = thing.__init__ if inspect.isclass(thing) else _function(thing)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return False
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


def _section(doc: str, title: str) -> str:
    """The lines below "Title:"."""
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", doc, re.MULTILINE)
    return found[1] if found else ""


MEMBERS = dict(_public())


@pytest.mark.parametrize("name", MEMBERS)
def test_a_public_name_is_documented(name: str) -> None:
    thing = MEMBERS[name]
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    assert not re.search(r"\bSee\b", doc), f"{name} sends its reader elsewhere"
    arguments = _section(doc, "Args")
    missing = [
        parameter for parameter in _parameters(thing) if not re.search(rf"^    .*\b{parameter}\b", arguments, re.M)
    ]
    assert not missing, f"{name} does not describe {missing}"
    assert not _raises(thing) or _section(doc, "Raises"), f"{name} does not say what it raises"
    if inspect.isclass(thing):
        return
    function = _function(thing)
    assert function is not None
    returned = function.__annotations__.get("return", "None")
    short = doc.startswith("Returns ") and (isinstance(thing, property) or returned in PLAIN)
    assert returned == "None" or short or _section(doc, "Returns"), f"{name} does not say what it returns"
