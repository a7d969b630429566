"""scripts/report.py: what is on the page, and what it does in a browser."""

from __future__ import annotations

import html
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from llqr_sam.suite.config import command, command_line
from tests.report.claims.made_up import write_table
from tests.studies.table_10.timings import write_timings
from tests.suite.plans import plan_of
from tests.suite.records import write_record
from tests.waiting import PATIENCE

RUNS = plan_of("table=7")  # FisherSAM, LLQR^Delta+SAM, LLQR+SAM, five seeds each
REPOSITORY = Path(__file__).resolve().parents[2]
GROUPS = command_line.groups()


def report(results: Path, *words: str, tables: tuple[str, ...] = ("7", "10")) -> tuple[int, list[str]]:
    """Run the script where there are few tables, for all of them take half a minute; exit status and errors."""
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        for module in (command, command_line):
            patch.setattr(module, "groups", lambda: GROUPS | {"table": tables})
        patch.setattr(sys, "argv", ["report.py", *words, "--results", str(results)])
        runpy.run_path(str(REPOSITORY / "scripts" / "report.py"), run_name="__main__")
    return ended.value.code, errors.getvalue().splitlines()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """FisherSAM's mean far below the paper's, one run of LLQR^Delta+SAM above it, LLQR+SAM not run; a picture."""
    folder = tmp_path_factory.mktemp("results")
    for run, top1 in zip(RUNS[:3], (75.0, 75.1, 75.2), strict=True):
        write_record(folder, run, [50.0, 60.0, 70.0, top1])
    write_record(folder, RUNS[5], [60.0, 70.0, 80.0, 82.0])
    write_timings(folder)
    (folder / "figures").mkdir()
    matplotlib.image.imsave(folder / "figures" / "figure_02.png", [[0.0, 1.0], [1.0, 0.0]])
    return folder


@pytest.fixture(scope="module")
def written(results) -> Path:
    assert report(results) == (0, [])
    return results / "report" / "index.html"


class Elements(HTMLParser):
    """Tags with their attributes, in order, and that they nest."""

    VOID = ("meta", "input", "img", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_is_well_formed_and_self_contained(written):
    """No style, script or picture from elsewhere: it works from the file system, without a network."""
    elements = Elements(written.read_text())
    assert elements.open == []
    assert elements.of("link") == []
    assert all("src" not in script for script in elements.of("script"))
    assert all(image["src"].startswith("data:image/png;base64,") for image in elements.of("img"))
    assert not re.search(r"url\(|@import|https?://", written.read_text())


def test_every_link_leads_somewhere(written):
    elements = Elements(written.read_text())
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    for link in elements.of("a"):
        target = link["href"]
        assert target[1:] in ids if target.startswith("#") else (written.parent / target).resolve().is_file()
    assert all(a["aria-describedby"] in ids for a in elements.of("a") if "aria-describedby" in a)


def cells(written: Path) -> dict[str, str]:
    """Method -> the cell of Table 7, its tags taken out."""
    found = re.findall(r'<td data-label="([^"]+)" class="([^"]*)">(.*?)</td>', written.read_text(), re.DOTALL)
    text = {label: f"{tone} | {re.sub(r'<[^>]+>', ' ', body)}" for label, tone, body in found[:3]}
    return {label: html.unescape(" ".join(body.split())) for label, body in text.items()}


def test_cells_show_ours_the_papers_and_how_sure_the_difference_is(written):
    """Three seeds far below: surely; one seed above: palely; none: no tone. The facts give n, interval and seeds."""
    found = cells(written)
    fisher = "below sure | 75.10 ± 0.10 (3 of 5) paper 80.89 ± 0.31 † -5.79 3 of 5 seeds finished "
    assert found["FisherSAM"].startswith(
        fisher + "95 % t interval of the mean: 74.85 to 75.35 seeds: 0: 75.00, 1: 75.10"
    )
    assert found["LLQR^Δ+SAM (NGD)"].startswith("above | 82.00 (1 of 5) paper 81.23 ± 0.14 +0.77 1 of 5 seeds")
    assert found["LLQR+SAM (NGD)"].startswith("| not run paper 81.82 ± 0.14 0 of 5 seeds finished")


def test_ratios_of_times_are_compared_with_the_papers_and_lead_to_the_measurement(written):
    """Seconds are of another machine: beside the paper's, and no difference. Its range stands for the interval."""
    section = written.read_text().partition('id="table-10"')[2].partition("</section>")[0]
    found = [
        cell for cell in re.findall(r"<td[^>]*>.*?</td>", section, re.DOTALL) if "paper" in cell and "facts" in cell
    ]
    ratios = [cell for cell in found if 'class="difference"' in cell]
    assert {re.search('data-label="([^"]*)"', cell)[1] for cell in ratios} == {"vs. SGD", "vs. SAM"}
    for cell in ratios:
        ours, low, high, paper = map(
            float, re.search(r"([\d.]+) \(([\d.]+)-([\d.]+)\).*?paper ([\d.]+)", cell, re.DOTALL).groups()
        )
        tone = re.search('class="([^"]*)"', cell)[1]
        assert tone == ("same" if low <= paper <= high else f"{'above' if ours > paper else 'below'} sure")
    assert "rounds, lowest and highest" in ratios[0]
    link = re.search('href="#([^"]*)"', ratios[0])[1]
    assert f'id="{link}"' in section


def test_what_has_not_been_run_is_listed(written):
    text = written.read_text().partition('id="missing"')[2]
    assert "11 of 15 runs missing. <code>python train.py table=7</code>" in text
    assert "2 of 4 networks missing. <code>python train.py table=10</code>" in text
    assert "<code>python scripts/figures.py 1</code>" in text
    assert "figures.py 2<" not in text


def test_a_cells_runs_have_their_configuration_and_record(written):
    source = re.search(r'id="table-7-0">(.*?)</details>', written.read_text(), re.DOTALL).group(1)
    assert "python train.py dataset=cifar100 arch=resnet18 optim=fisher_sam" in source
    assert source.count('href="../runs/table_07/cifar100-resnet18-fisher_sam-s') == 3
    assert source.count(": not run") == 2
    assert "fisher_eta: 0.1" in source


def test_the_claims_come_first_and_say_what_was_not_tested(written):
    """One seed is not enough to test a claim of Table 7."""
    text = written.read_text()
    sections = re.findall(r'<section id="([^"]+)"', text)
    assert sections[:2] == ["claims", "table-7"]
    section = text.partition('id="claims"')[2].partition("</section>")[0]
    assert "No claim has been tested yet." in section
    assert "<code>python train.py table=7</code>: Transport matters, not the probe alone." in section
    assert "badge" not in section


def test_a_tested_claim_is_on_the_page_with_its_word_and_picture(tmp_path):
    """Table 7 as a whole: LLQR+SAM above its probe alone, which lies below FisherSAM."""
    gains = {"fisher_sam": 0.0, "llqr_probe_sam-ngd": -2.0, "llqr_sam-ngd": 1.0}
    write_table(tmp_path, "table=7", gains=gains)
    (tmp_path / "figures").mkdir()
    matplotlib.image.imsave(tmp_path / "figures" / "claims.png", [[0.0, 1.0], [1.0, 0.0]])
    assert report(tmp_path) == (0, [])
    text = (tmp_path / "report" / "index.html").read_text()
    section = text.partition('id="claims"')[2].partition("</section>")[0]
    found = re.findall(r'<span class="badge ([a-z]+)">(.) ([a-z]+)</span>\s*<span class="sentence">([^<]+)<', section)
    assert [(tone, symbol, word) for tone, symbol, word, _ in found] == [
        ("above", "●", "supported"),
        ("below", "■", "contradicted"),
    ]
    assert found[0][3] == "Transport matters, not the probe alone."
    assert "Of 2 claims tested at the paper&#39;s scale, 1 is supported, 1 contradicted and 0 undecided" in section
    assert section.count("data:image/png;base64,") == 1
    assert "python scripts/figures.py claims" not in text
    Elements(text)


def test_equal_results_give_equal_bytes(written, results):
    before = written.read_bytes()
    report(results)
    assert written.read_bytes() == before


FAST = ("precision=fast", "precision.deterministic=true")


@pytest.fixture(scope="module")
def of_words(tmp_path_factory) -> tuple[str, list[str]]:
    """The page of Tables 6 and 7 with the words of conf/reproduction.yaml, of one record made with them."""
    folder = tmp_path_factory.mktemp("results")
    write_record(folder, replace(plan_of("table=7", *FAST)[0], folder="reproduction"), [80.0, 80.5])
    path = folder / "report" / "index.html"
    report(folder, tables=("6", "7"))
    assert "80.50" not in path.read_text(), "a run is found by its settings"
    status, passed = report(folder, *FAST, tables=("6", "7"))
    assert status == 0
    return path.read_text(), passed


@pytest.mark.slow
def test_a_record_made_with_the_words_is_on_their_page(of_words):
    text, _ = of_words
    assert "80.50" in text
    assert 'href="../runs/reproduction/cifar100-resnet18-fisher_sam-s0-' in text
    assert "14 of 15 runs missing. <code>python train.py table=7 precision=fast precision.deterministic=true<" in text
    assert "Of runs started with <code>precision=fast precision.deterministic=true</code>." in text


@pytest.mark.slow
def test_a_table_that_cannot_take_the_words_is_named(of_words):
    """Translation is not compiled."""
    text, (line,) = of_words
    assert line == "table=6 passed over: precision.compile=True has no use with dataset=iwslt14: leave it at False."
    assert f"<li>{line}</li>" in text
    assert 'id="table-6"' not in text


def test_words_that_no_table_can_take_are_a_mistake(tmp_path):
    assert report(tmp_path, "protocol.epochs=-1") == (2, ["error: protocol.epochs=-1 must be >= 1."])
    assert not list(tmp_path.iterdir())


# What a person does, done by a script in the page; it leaves its findings in the title.
ACTIONS = """<script>
addEventListener("load", () => {
  const shown = (element) => getComputedStyle(element).display !== "none";
  const cell = document.querySelector("a.cell"), facts = cell.querySelector(".facts");
  const box = document.querySelector("input[data-key]"), chart = box.closest(".chart");
  const line = chart.querySelector("polyline");
  const found = {hidden: !shown(facts), lineOn: shown(line)};
  cell.focus();
  found.focused = shown(facts);
  dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
  found.escaped = !shown(facts);
  box.click();
  found.lineOff = !shown(line);
  chart.querySelector('[data-all="true"]').click();
  found.allOn = shown(line);
  const folded = document.querySelector("details.source");
  found.folded = !folded.open && !folded.parentElement.open;
  location.hash = folded.id;
  setTimeout(() => {
    found.unfolded = folded.open && folded.parentElement.open;
    found.fits = document.documentElement.scrollWidth <= innerWidth;
    found.width = innerWidth;
    document.title = JSON.stringify(found);
    (window.parent || window).document.title = document.title;
  }, 100);
});
</script></body>"""


def in_chromium(file: Path, picture: Path, size: str, *options: str) -> str:
    """Titles of a file in a headless browser, which leaves a screenshot."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    common = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    common.append(f"--window-size={size}")
    for option in options:
        subprocess.run([*common, option, file.as_uri()], check=True, capture_output=True, timeout=PATIENCE)
    subprocess.run(
        [*common, f"--screenshot={picture}", file.as_uri()], check=True, capture_output=True, timeout=PATIENCE
    )
    dumped = subprocess.run([*common, "--dump-dom", file.as_uri()], check=True, capture_output=True, timeout=PATIENCE)
    return html.unescape(dumped.stdout.decode())


@pytest.mark.slow
def test_it_prints_as_tables(written, tmp_path):
    """Not as a narrow screen's cards, one cell under another: those are several times as many pages."""

    def pages(page: str) -> int:
        (tmp_path / "page.html").write_text(page)
        in_chromium(tmp_path / "page.html", tmp_path / "page.png", "1280,2000", f"--print-to-pdf={tmp_path}/page.pdf")
        return len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))

    page = written.read_text()
    assert 2 * pages(page) < pages(page.replace("@media screen and (max-width", "@media (max-width"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 375])
def test_in_a_browser(width, written, tmp_path):
    """Facts on focus, away with Escape; curves off and on; a link unfolds its runs; no sideways scrolling."""
    acted = written.read_text().replace("</body>", ACTIONS)
    file = tmp_path / "page.html"  # in a frame of the width: a window cannot be as narrow as a phone
    frame = f'<iframe width="{width}" height="2000" style="border:0" srcdoc="{html.escape(acted)}"></iframe>'
    file.write_text(f"<!doctype html><title></title><body style='margin:0'>{frame}")
    dumped = in_chromium(file, tmp_path / "page.png", f"{max(width, 500)},2000")
    findings = re.search(r"<title>(\{.*?\})</title>", dumped)
    assert findings, dumped[:500]
    found = json.loads(findings.group(1))
    assert found.pop("width") == width
    assert len(found) == 9
    assert [name for name, holds in found.items() if not holds] == []
    assert matplotlib.image.imread(tmp_path / "page.png").std() > 0.05


def test_a_table_of_different_data_is_passed_over(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    for run, data in zip(RUNS[3:5], "ab", strict=True):
        write_record(tmp_path / "results", run, [70.0], data=data * 64)
    _, (line,) = report(tmp_path / "results")
    assert line.startswith("table=7 passed over: the records of dataset=cifar100 are of different data")
    assert html.escape(line, quote=False) in (tmp_path / "results" / "report" / "index.html").read_text()


@pytest.mark.slow
def test_runs_of_no_table_are_on_the_page(tmp_path):
    for rho in (0.05, 0.2):
        (run,) = plan_of("optim=sam", f"optim.rho={rho}")
        write_record(tmp_path, run, [90.0 + 10 * rho])
    assert report(tmp_path, tables=("demo",)) == (0, [])
    text = (tmp_path / "report" / "index.html").read_text()
    assert "Single runs: Small CNN on Digits" in text
    assert "92.00" in text
