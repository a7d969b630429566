from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
from matplotlib.figure import Figure

from llqr_sam.report.figures.drawing import DARK, INK, LOOKS, OTHER, TEXT, WIDTH, look, looks, svg, write_figure

SMALLEST = 8  # pixels of text that can be read
PHONE = 356  # pixels of a picture on a phone


def picture() -> Figure:
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for method in LOOKS:
        ink, dash, marker = look(method)
        axes.plot([0, 1, 2], [0, len(method), 1], color=ink, linestyle=dash, marker=marker, label=method)
    axes.set(title="A title", xlabel="steps & more")
    axes.legend()
    return figure


def test_methods_differ_in_colour_dash_and_marker():
    """In each alone: colour for who sees it, dash or marker in grey print."""
    for kept in zip(*LOOKS.values(), OTHER, strict=True):
        assert len(set(kept)) == len(LOOKS) + 1
    assert look("a user's own") == OTHER


def test_own_methods_of_a_picture_differ_from_each_other_and_from_the_known():
    found = looks(["sgdm", "mine", "sam", "yours", "mine"])
    assert list(found) == ["sgdm", "mine", "sam", "yours"]
    assert (found["sgdm"], found["sam"]) == (LOOKS["sgdm"], LOOKS["sam"])
    assert len(set(found.values())) == 4
    assert looks([*LOOKS, "one more"])["one more"] == OTHER


def test_text_can_be_read_on_a_phone():
    assert TEXT / 72 * PHONE / WIDTH >= SMALLEST


def test_a_picture_has_equal_bytes_in_both_formats(tmp_path: Path):
    first, second = (write_figure(picture(), tmp_path / name / "a.png") for name in ("x", "y"))
    assert (first.name, sorted(path.name for path in first.parent.iterdir())) == ("a.png", ["a.png", "a.svg"])
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".svg").read_bytes() == second.with_suffix(".svg").read_bytes()
    assert matplotlib.image.imread(first).shape[1] == round(130 * WIDTH)


def test_svg_keeps_text_and_names_a_font_that_every_reader_has():
    root = ElementTree.fromstring(svg(picture()))
    texts = [element for element in root.iter() if element.tag.endswith("}text")]
    assert {"A title", "steps & more", "llqr_sam"} <= {text.text for text in texts}
    assert all("sans-serif" in text.get("style", "") for text in texts)
    assert b"<dc:date>" not in svg(picture())


def test_no_ink_of_the_style_stays_dark_in_dark_mode():
    """Every colour of paper and ink in the picture has a rule; the methods' colours have none, but for SGDM's ink."""
    text = svg(picture()).decode()
    head, _, body = text.partition("</style>")
    turned = set(re.findall(r'\[style\*="(?:fill|stroke): (#\w+)"\]', head))
    assert turned == set(DARK)
    used = set(re.findall(r"(?:fill|stroke): (#\w{6})", body))
    assert used - turned == {each.colour.lower() for each in LOOKS.values()} - {INK}
    assert "@media (prefers-color-scheme: dark)" in head
