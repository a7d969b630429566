"""The page of scripts/report.py in a browser: its first screen, on paper, on a phone, and for a screen reader."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from llqr_sam.engine.records.record import read_records
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

# What a person does, done by a script in the page; it leaves its findings in the title.
ACTIONS = """<script>
addEventListener("load", () => setTimeout(async () => {
  const wait = (time) => new Promise((done) => setTimeout(done, time));
  const inView = (element) => {
    const box = element.getBoundingClientRect();
    return box.top >= 0 && box.bottom <= innerHeight && box.width > 0;
  };
  const plain = (element) => element.textContent.replace(/\\s+/g, " ").trim();
  const found = {};
  found.answer = inView(document.querySelector(".answer li")) && plain(document.querySelector(".answer li .said"));
  found.facts = inView(document.querySelector(".facts")) && plain(document.querySelector(".facts"));
  const narrow = innerWidth < 800, table = document.querySelector("#table-7 details.fold");
  const claim = document.querySelector("details.claim .track");
  found.claimSeen = narrow || inView(claim);
  found.foldedIfNarrow = table.open === !narrow;
  location.hash = "table-7";
  await wait(200);
  found.unfolded = table.open;
  const figure = document.querySelector("figure.chart"), first = figure.querySelector('[data-role="first"]');
  figure.scrollIntoView();
  await wait(300);
  const inked = () => [...figure.querySelectorAll(".panels canvas")].map((canvas) =>
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.reduce((sum, byte) => sum + byte, 0));
  const before = inked();
  found.twoPanels = before.length === 2 && before.every((sum) => sum > 0);
  first.value = "1";
  first.dispatchEvent(new Event("change", {bubbles: true}));
  await wait(100);
  found.bandsChange = JSON.stringify(inked()) !== JSON.stringify(before);
  figure.querySelector("details.each").open = true;
  await wait(200);
  found.smallMultiples = figure.querySelectorAll(".small canvas").length === first.options.length;
  let link;
  const create = document.createElement.bind(document);
  document.createElement = (name) => {
    const made = create(name);
    if (name === "a") made.click = () => { link = made; };
    return made;
  };
  let text;
  window.Blob = function (parts) { text = parts[0]; };
  URL.createObjectURL = () => "";
  URL.revokeObjectURL = () => {};
  figure.querySelector('[data-role="csv"]').click();
  found.csvName = link.download;
  found.csv = text.split("\\n").slice(0, 2);
  found.fits = document.documentElement.scrollWidth <= innerWidth;
  found.width = innerWidth;
  document.title = JSON.stringify(found);
  (window.parent || window).document.title = document.title;
}, 200));
</script></body>"""


# A chart is drawn when it comes near the screen, which no headless browser tells of when its clock runs ahead.
NEAR = """<head><script>
window.IntersectionObserver = class {
  constructor(call) { this.call = call; }
  observe(target) { setTimeout(() => this.call([{isIntersecting: true, target}])); }
};
</script>"""


def in_chromium(file: Path, picture: Path, size: str, *options: str) -> str:
    """Titles of a file in a headless browser, which leaves a screenshot."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    common = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    common.append(f"--window-size={size}")
    for option in options:
        subprocess.run([*common, option, file.as_uri()], check=True, capture_output=True, timeout=PATIENCE)
    subprocess.run(
        [*common, f"--screenshot={picture}", file.as_uri()], check=True, capture_output=True, timeout=PATIENCE
    )
    dumped = subprocess.run([*common, "--dump-dom", file.as_uri()], check=True, capture_output=True, timeout=PATIENCE)
    return html.unescape(dumped.stdout.decode())


PAPER = 703, 1032  # pixels of an A4 page within its margins of 12 mm


def test_it_fits_on_paper(compared, tmp_path):
    """With the rules of print on a page's width nothing is cut off, curves included, and the PDF is short."""
    page = compared.read_text()
    (tmp_path / "page.html").write_text(page)
    printed = tmp_path / "page.pdf"
    measured = """<script>addEventListener("load", () => setTimeout(() => {
      document.querySelectorAll("details").forEach((each) => { each.open = true; });
      dispatchEvent(new Event("beforeprint"));
      setTimeout(() => {
        const all = [...document.querySelectorAll("td, th, svg, p, img, canvas")];
        const cut = all.filter((each) => each.getBoundingClientRect().right > innerWidth + 1);
        const canvases = document.querySelectorAll(".panels canvas").length;
        document.title = JSON.stringify({cut: cut.map((each) => each.outerHTML.slice(0, 200)), canvases});
        window.parent.document.title = document.title;
      }, 200);
    }, 200));</script></body>"""
    as_printed = page.replace("@media print", "@media all").replace("@media screen", "@media not all")
    as_printed = as_printed.replace("</body>", measured)
    frame = f'<iframe width="{PAPER[0]}" height="9000" style="border:0" srcdoc="{html.escape(as_printed)}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title></title><body style='margin:0'>{frame}")
    dumped = in_chromium(tmp_path / "frame.html", tmp_path / "page.png", "800,9000")
    found = json.loads(re.search(r"<title>(\{.*?\})</title>", dumped, re.DOTALL).group(1))
    assert found == {"cut": [], "canvases": 2}
    in_chromium(tmp_path / "page.html", tmp_path / "page.png", "1280,2000", f"--print-to-pdf={printed}")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert 1 <= pages <= 4


def test_printing_draws_curves_for_paper_and_then_for_the_screen_again(compared, tmp_path):
    acted = """<script>addEventListener("load", () => setTimeout(async () => {
      const wait = () => new Promise((done) => setTimeout(done, 200));
      const widths = () => [...document.querySelectorAll(".panels canvas")].map((each) => each.clientWidth);
      const before = widths();
      dispatchEvent(new Event("beforeprint"));
      await wait();
      const paper = widths();
      dispatchEvent(new Event("afterprint"));
      await wait();
      document.title = JSON.stringify({before, paper, after: widths()});
    }, 500));</script></body>"""
    file = tmp_path / "page.html"
    file.write_text(compared.read_text().replace("<head>", NEAR, 1).replace("</body>", acted))
    dumped = in_chromium(file, tmp_path / "page.png", "1280,1000")
    found = json.loads(re.search(r"<title>(\{.*?\})</title>", dumped, re.DOTALL).group(1))
    assert found["before"] == found["after"]
    assert len(found["paper"]) == 2
    assert max(found["paper"]) <= PAPER[0] / 2 < min(found["before"])


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(width, compared, tmp_path):
    """The first screen answers; a link unfolds its table; bands and CSV of the curves; no sideways scrolling."""
    acted = compared.read_text().replace("</body>", ACTIONS).replace("<head>", NEAR, 1)
    file = tmp_path / "page.html"  # in a frame of the width: a window cannot be as narrow as a phone
    frame = f'<iframe width="{width}" height="800" style="border:0" srcdoc="{html.escape(acted)}"></iframe>'
    file.write_text(f"<!doctype html><title></title><body style='margin:0'>{frame}")
    dumped = in_chromium(file, tmp_path / "page.png", f"{max(width, 500)},800")
    findings = re.search(r"<title>(\{.*?\})</title>", dumped, re.DOTALL)
    assert findings, dumped[:500]
    found = json.loads(findings.group(1))
    difference = _difference(compared.parents[1])
    assert found.pop("answer") == f"LLQR+SAM (NGD) is better than FisherSAM: {difference} points, n = 5"
    assert found.pop("facts").startswith("15 runs · cpu · torch 2")
    assert found.pop("csvName") == "ResNet_18_on_CIFAR_100.csv"
    assert found.pop("csv")[0] == "network,method,seeds,epoch,minutes,score_mean,score_lowest,score_highest"
    assert found.pop("width") == width
    assert len(found) == 7
    assert [name for name, holds in found.items() if not holds] == []
    assert matplotlib.image.imread(tmp_path / "page.png").std() > 0.05


def _difference(results: Path) -> str:
    """Of LLQR+SAM to FisherSAM, computed from the records here: ``+1.02 [+0.58, +1.46]``."""
    scores: dict[str, dict[int, float]] = {}
    for record in read_records(results / "runs")[0]:
        scores.setdefault(record.config["optim"]["name"], {})[record.config["seed"]] = record.metrics.best.top1
    values = np.array([ours - scores["fisher_sam"][seed] for seed, ours in scores["llqr_sam"].items()])
    half = pytest.importorskip("scipy.stats").t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.2f} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_a_checker_finds_no_barrier(scheme, compared, tmp_path):
    """axe-core, with everything unfolded: WCAG 2.1 AA and its best practices."""
    axe = Path(pytest.importorskip("axe_core_python").__file__).with_name("axe.min.js").read_text()
    check = """<script>addEventListener("load", () => setTimeout(async () => {
      document.querySelectorAll("details").forEach((each) => { each.open = true; });
      await new Promise((done) => setTimeout(done, 500));
      const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];
      const {violations, passes} = await axe.run(document, {runOnly: tags});
      const told = violations.map((each) => `${each.id}: ${each.nodes[0].html}`);
      document.title = JSON.stringify({told, passes: passes.length});
    }, 500));</script></body>"""
    file = tmp_path / "page.html"
    file.write_text(compared.read_text().replace("</body>", f"<script>{axe}</script>{check}"))
    options = [f"--blink-settings=preferredColorScheme={scheme}"]
    dumped = in_chromium(file, tmp_path / "page.png", "1280,1000", *options)
    found = json.loads(re.search(r"<title>(\{.*?\})</title>", dumped, re.DOTALL).group(1))
    assert found["told"] == []
    assert found["passes"] > 20
