"""scripts/report.py: what is on the page. tests/scripts/test_report_in_chromium.py: what it does in a browser."""

from __future__ import annotations

import html
import re
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from llqr_sam.report.tables.accuracy_table import collect
from llqr_sam.report.tables.accuracy_text import print_accuracy
from llqr_sam.report.tables.printed_table import to_markdown
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.run.run_folder import Epochs
from tests.processes import start
from tests.scripts.pages import RUNS, report
from tests.studies.table_10.timings import write_timings
from tests.suite.plans import plan_of
from tests.suite.records import write_record
from tests.waiting import PATIENCE, wait_for


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


def section(written: Path, name: str) -> str:
    """The text between a section's tags."""
    return written.read_text().partition(f'<section id="{name}"')[2].partition("</section>")[0]


def words_of(markup: str) -> str:
    """Without tags, plots and repeated blanks."""
    markup = re.sub(r"<svg class=.*?</svg>\s*(?=<[^s]|$)", " ", markup, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def test_is_well_formed_and_self_contained(written):
    """No style, script or picture from elsewhere: it works from the file system, without a network."""
    elements = Elements(written.read_text())
    assert elements.open == []
    assert elements.of("link") == []
    assert all("src" not in script for script in elements.of("script"))
    assert all(image["src"].startswith("data:image/") for image in elements.of("img"))
    comments = r"/\*!.*?\*/|<!--.*?-->"  # the drawing library's name and licence
    assert not re.search(r"url\(|@import|https?://", re.sub(comments, "", written.read_text(), flags=re.DOTALL))


def test_every_link_leads_somewhere(written):
    elements = Elements(written.read_text())
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    for link in elements.of("a"):
        target = link["href"]
        assert target[1:] in ids if target.startswith("#") else (written.parent / target).resolve().is_file()


def rows(written: Path) -> dict[str, tuple[str, str]]:
    """Method -> what its line in Table 7 says, and the classes of its cells."""
    found = re.findall(r"<tr[^>]*>\s*<th scope=\"row\">([^<]*)</th>(.*?)</tr>", section(written, "table-7"), re.DOTALL)
    return {
        html.unescape(name): (words_of(body), " ".join(re.findall('class="([^"]*)"', body))) for name, body in found
    }


def test_a_line_shows_ours_the_difference_and_the_papers_value(written):
    """FisherSAM: three seeds far below the paper's. One seed of LLQR^Delta+SAM has a difference and no interval."""
    found = rows(written)
    said, classes = found["FisherSAM"]
    assert said == "75.10 ± 0.10 (3 of 5) \N{EN DASH} 75.10 ± 0.10 80.89 ± 0.31 ours -5.79 †"
    assert "topaper below" in classes
    said, classes = found["LLQR^Δ+SAM (NGD)"]
    assert said == "82.00 (1 of 5) +7.00 , n = 1 82.00 81.23 ± 0.14 ours +0.77"
    assert "topaper same" in classes
    assert found["LLQR+SAM (NGD)"][0] == "not run \N{EN DASH} \N{EN DASH} 81.82 ± 0.14"


def test_ratios_of_times_are_compared_with_the_papers(written):
    """Seconds are of another machine: beside the paper's, and no difference. Its range stands for the interval."""
    cells = re.findall(r'<td class="(\w*)">(.*?)</td>', section(written, "table-10"), re.DOTALL)
    ratios = [(tone, words_of(cell)) for tone, cell in cells if tone]
    assert len(ratios) > 4
    for tone, said in ratios:
        ours, low, high, paper = map(float, re.search(r"([\d.]+) \(([\d.]+)-([\d.]+)\) paper ([\d.]+)", said).groups())
        assert tone == ("same" if low <= paper <= high else "above" if ours > paper else "below")
        assert f"({ours - paper:+.2f})" in said or abs(ours - paper) > 0.01


def test_tables_with_runs_come_first_and_the_others_are_a_line_with_their_command(tmp_path):
    write_record(tmp_path, plan_of("table=8")[0], [60.0])
    assert report(tmp_path, tables=("7", "8")) == (0, [])
    page = tmp_path / "report" / "index.html"
    names = re.findall(r'<section id="([^"]+)"', page.read_text())
    assert names == ["answer", "table-8", "table-9", "claims", "missing"]  # no claim was tested, no figure drawn
    waiting = re.search(r'<details id="table-7"><summary>(.*?)</summary>', section(page, "missing"), re.DOTALL)
    assert words_of(waiting[1]) == "Table 7: Probe alone, or probe and transport: 15 runs. python train.py table=7"


def test_what_has_not_been_run_is_listed(written):
    text = section(written, "missing")
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


def test_the_answer_comes_first_and_says_what_cannot_be_told(written):
    """One seed is not enough to compare, nor to test a claim of Table 7."""
    answer = words_of(section(written, "answer"))
    assert "LLQR^Δ+SAM (NGD) has one seed, too few to be compared with FisherSAM: +7.00 points, n = 1" in answer
    claims = section(written, "claims")
    assert "No claim has been tested yet." in claims
    assert "<code>python train.py table=7</code>: Transport matters, not the probe alone." in claims
    assert "badge" not in claims


def test_what_was_run_stands_at_the_top(written):
    facts = re.search(r'<p class="facts">(.*?)</p>', written.read_text())[1]
    assert facts == "4 runs · cpu · torch 2 · commit unknown · 2026-01-01"


def test_a_tested_claim_is_on_the_page_with_its_word_and_plot(compared):
    claims = section(compared, "claims")
    found = re.findall(
        r'<span class="sentence">([^<]+)</span>\s*<svg class="track (\w+)".*?'
        r'<span class="badge \w+">(.)<span class="word"> (\w+)</span>',
        claims,
        re.DOTALL,
    )
    assert found == [
        ("Transport matters, not the probe alone.", "above", "●", "supported"),
        ("A learned probe tests better than Fisher&#39;s.", "below", "■", "contradicted"),
    ]
    assert "Of 2 claims tested at the paper&#39;s scale, 1 is supported, 1 contradicted and 0 undecided" in claims


def test_bold_on_the_page_is_bold_in_the_table(compared):
    """LLQR+SAM has the highest mean and is surely above FisherSAM."""
    marked = re.findall(r'<tr class="best">\s*<th scope="row">([^<]*)</th>', section(compared, "table-7"))
    _, table = collect(Command.of("table=7", f"paths.results={compared.parents[1]}"))
    text = to_markdown(print_accuracy(table))
    assert marked == ["LLQR+SAM (NGD)"]
    assert text.count("| **") == 1
    assert re.search(r"\| \*\*6[\d.]+ ± [\d.]+ \(5 of 5\)\*\*<br>[^|]*\|\n", text), "the last column"


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


@pytest.mark.slow
def test_the_page_is_written_again_while_runs_go_on(tmp_path):
    """A run's epoch and time left; then its record. Ctrl-C ends the watch."""
    run = plan_of("table=7")[0]
    work = tmp_path / "work" / run.run_id
    command = ["-c", WATCHED, f"paths.results={tmp_path}", f"paths.workspace={tmp_path / 'work'}", "watch=true"]
    page = tmp_path / "report" / "index.html"
    with RunLock(work, 10):
        Epochs(50, 200, 71.25, 600.0, time.time(), 1, "%").write(work)
        watching = start(*command)
        wait_for(page.exists)
        assert "seed 0 running: epoch 50/200, best 71.25 %, 0:" in page.read_text()
        assert 'data-reload="1"' in page.read_text()
        assert "no run has ended, 1 going on" in page.read_text()
    write_record(tmp_path, run, [80.0])
    wait_for(lambda: "80.00 (1 of 5)" in page.read_text())
    assert 'data-reload="1"' in page.read_text(), "between two runs it goes on loading itself"
    watching.send_signal(signal.SIGINT)
    assert watching.wait(PATIENCE) == 0
    assert "80.00 (1 of 5)" in page.read_text()
    assert "data-reload" not in page.read_text().partition("<script>")[0]


# The script where there are few tables, and a page each second.
WATCHED = """
import runpy, sys
from llqr_sam.report.page import page
from llqr_sam.suite.config import command, command_line
page.RELOAD = 1
groups = command_line.groups() | {"table": ("7",)}
command.groups = command_line.groups = lambda: groups
sys.argv = ["report.py", *sys.argv[1:]]
runpy.run_path("scripts/report.py", run_name="__main__")
"""


def test_watch_takes_true_or_false(tmp_path):
    assert report(tmp_path, "watch=1") == (2, ["error: watch= must be true or false."])


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
