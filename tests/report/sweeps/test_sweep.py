"""Sweeps from records that were never trained: what is one row, what it says, and which row is best."""

from __future__ import annotations

import pytest

from llqr_sam.engine.records.record import Record
from llqr_sam.report.sweeps.ending import print_ending, print_ending_of
from llqr_sam.report.sweeps.question import Question
from llqr_sam.report.sweeps.sweep import Sweep, best_of, check_data, collect, grouped, recorded
from llqr_sam.report.sweeps.sweep_figure import draw_sweep
from llqr_sam.report.sweeps.sweep_text import best_sentences, print_sweep, sweep_lines
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config, PathsConfig
from llqr_sam.suite.plan.plan import Planned
from tests.suite.plans import plan_of
from tests.suite.records import record_of, status_of, write_record

# Best of each seed, the mean of which is 90, 96, 94.
SCORES = {0.05: (89.0, 90.0, 91.0), 0.1: (95.0, 96.0, 97.0), 0.2: (93.0, 94.0, 95.0)}


def run(*words: str) -> Planned:
    (planned,) = plan_of(*words)
    return planned


def records(*words: str) -> list[Record]:
    """SAM at three radii and three seeds."""
    return [
        record_of(run("optim=sam", f"optim.rho={rho}", f"seed={seed}", *words), [score, score - 1])
        for rho, scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]


def asked(words: str, found: list[Record]) -> Sweep:
    runs = recorded(found)
    return Question.of(words.split(), runs).answer(runs)


def test_a_row_is_all_seeds_of_equal_settings():
    sweep = grouped(recorded(records()))
    assert sweep.varied == ("optim.rho",)
    assert [point.values["optim.rho"] for point in sweep.points] == ["0.05", "0.1", "0.2"]
    assert [point.best.mean for point in sweep.points] == [90.0, 96.0, 94.0]
    assert [point.last.mean for point in sweep.points] == [89.0, 95.0, 93.0]
    assert {len(point.best.values) for point in sweep.points} == {3}


def test_the_interval_is_students():
    """t(0.975, 2) = 4.3027, of a standard deviation of 1 and three seeds."""
    interval = grouped(recorded(records())).points[0].best.t_interval()
    assert interval is not None
    assert interval.high - 90.0 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)


def test_a_record_of_a_run_counts_once():
    twice = records()
    diverged = record_of(run("optim=sam", "optim.rho=0.05", "seed=0"), [10.0], status="diverged")
    for found in ([diverged, *twice], [*twice, diverged], [*twice, *twice]):
        assert [point.best.mean for point in grouped(recorded(found)).ordered(["optim.rho"]).points] == [90, 96, 94]


def test_the_best_row_has_no_diverged_run():
    diverged = record_of(run("optim=sam", "optim.rho=0.1", "seed=7"), [10.0], status="diverged")
    points = grouped(recorded([*records(), diverged])).points
    assert (best := best_of(points)) is not None
    assert best.values["optim.rho"] == "0.2"
    assert best_of([point for point in points if point.states["diverged"]]) is not None  # there is no other
    assert best_of([]) is None


def test_a_plan_says_what_is_missing(tmp_path):
    runs = [run("optim=sam", f"optim.rho={rho}", f"seed={seed}") for rho in (0.05, 0.1) for seed in (0, 1)]
    write_record(tmp_path, runs[0], [90.0])
    write_record(tmp_path, runs[1], [10.0], status="diverged")
    lines = [line.split() for line in sweep_lines(collect(status_of(runs, tmp_path)))]
    assert lines[-2] == ["sam", "0.05", "1", "90.00", "-", "-", "90.00", "1", "diverged"]
    assert lines[-1] == ["sam", "0.1", "0", "-", "-", "-", "-", "2", "missing"]


def test_the_ending_of_a_sweep(tmp_path, capsys):
    runs = [run("optim=sam", f"optim.rho={rho}") for rho in (0.05, 0.1)]
    for planned, score in zip(runs, (90.0, 80.0), strict=True):
        write_record(tmp_path, planned, [score])
    config = Config(paths=PathsConfig(results=tmp_path, workspace=tmp_path / "none"))
    config.launch = run_config().launch
    print_ending(runs, config)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split()[:5] == ["*", "sam", "0.05", "1", "90.00"]
    print_ending(runs[:1], config)
    assert capsys.readouterr().out == ""
    write_record(tmp_path / "mixed", runs[0], [1.0], data="a" * 64)
    write_record(tmp_path / "mixed", runs[1], [1.0], data="b" * 64)
    config.paths.results = tmp_path / "mixed"
    print_ending(runs, config)
    assert capsys.readouterr().out.startswith("no table: the records of dataset=digits are of different data")


def run_config() -> Config:
    return Command.of().config


def test_the_ending_of_hydras_jobs(tmp_path, capsys):
    """One job is no sweep, and neither are jobs with results of their own."""
    jobs = [Command.of("optim=sam", f"optim.rho={rho}", f"paths.results={tmp_path}") for rho in (0.05, 0.1)]
    print_ending_of(jobs)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[-2:]] == [["sam", "0.05"], ["sam", "0.1"]]
    print_ending_of([])
    print_ending_of([Command.of("table=demo", f"paths.results={tmp_path}")])
    print_ending_of([jobs[0], jobs[1].with_words("paths.results=elsewhere")])
    assert capsys.readouterr().out == ""


def test_records_of_different_data_are_not_averaged():
    found = [record_of(run("optim=sam", f"seed={seed}"), [90.0], data=letter * 64) for seed, letter in enumerate("ab")]
    with pytest.raises(UsageError, match="the records of dataset=digits are of different data"):
        check_data(recorded(found))


def test_a_question_keeps_what_differs_in_it_alone():
    """SGDM has no radius, a sole run of other epochs no second value."""
    others = [record_of(run("optim=sgdm"), [99.0]), record_of(run("optim=sam", "protocol.epochs=2"), [99.0])]
    sweep = asked("over=optim.rho", [*others, *reversed(records())])
    assert [point.values["optim.rho"] for point in sweep.points] == ["0.05", "0.1", "0.2"]
    assert list(best_sentences(sweep, ["optim.rho"])) == [
        "best optim.rho=0.1 for digits small_cnn sam: 96.00 [93.52, 98.48], n = 3"
    ]


def test_what_else_varies_makes_a_series_of_its_own():
    sweep = asked("over=optim.rho", [*records(), *records("protocol.epochs=2")])
    assert len(sweep.points) == 6
    assert [line.partition(":")[0] for line in best_sentences(sweep, ["optim.rho"])] == [
        "best optim.rho=0.1 for digits small_cnn sam protocol.epochs=2",
        "best optim.rho=0.1 for digits small_cnn sam protocol.epochs=20",
    ]
    both = asked("over=optim.rho,protocol.epochs", [*records(), *records("protocol.epochs=2")])
    assert len(list(best_sentences(both, ["optim.rho", "protocol.epochs"]))) == 1


def test_methods_are_compared_whatever_their_geometry():
    found = [record_of(run(f"optim={name}"), [score]) for name, score in (("sam", 90.0), ("llqr_sam", 95.0))]
    (sentence,) = best_sentences(asked("over=optim", found), ["optim.name"])
    assert sentence == "best optim=llqr_sam-ngd for digits small_cnn: 95.00, n = 1"


def test_words_choose_among_records():
    found = [*records(), *records("protocol.epochs=2")]
    assert len(asked("over=optim.rho protocol.epochs=2 optim=sam dataset=digits", found).points) == 3
    assert len(asked("over=optim.rho protocol.epochs=2 optim.rho=0.05,0.10", found).points) == 2
    assert {len(point.runs) for point in asked("over=optim.rho seed=0,2 geometry=none", found).points} == {2}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("over=rho", "no record has a setting rho (did you mean optim.rho?). Settings that vary there: optim.rho."),
        ("over=optim.roh", "no record has a setting optim.roh (did you mean optim.rho?)."),
        ("optim=sam", "over= is missing: it names the settings to compare. Settings that vary there: optim.rho."),
        ("over=optim.rho optim=sma", "no record has optim=sma here. Their optim: sam (did you mean sam?)"),
        ("over=optim.lr", "no two records that are otherwise equal differ in optim.lr (here optim.lr=0.05). Settings"),
        ("over=optim.rho optim.rho=0.1", "no two records that are otherwise equal differ in optim.rho (here optim.rho"),
    ],
)
def test_a_question_without_an_answer_is_one_sentence(words, sentence):
    with pytest.raises(UsageError) as caught:
        asked(words, records())
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_files_are_named_by_the_question():
    runs = recorded(records())
    name = Question.of(["over=optim.rho", "dataset=digits", "optim=sam", "protocol.epochs=20"], runs).name
    assert name == "optim.rho-digits-sam-epochs_20"


def test_the_numbers_of_a_table_are_in_its_csv():
    table = print_sweep(grouped(recorded(records())), [])
    heads, first, *_ = (line.split(",") for line in table.csv.splitlines())
    row = dict(zip(heads, first, strict=True))
    assert (row["optim.rho"], row["n"], row["best_mean"], row["best_std"]) == ("0.05", "3", "90.0", "1.0")


def test_the_picture():
    """A logarithmic axis where values spread over a decade; names stand side by side; a line for each series."""
    sweep = asked("over=optim.rho", records())
    (axes,) = draw_sweep(sweep, "optim.rho").axes
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == (
        "linear",
        "optim.rho",
        "best test top-1 in percent",
    )
    assert [list(line.get_xdata()) for line in axes.lines[:1]] == [[0.05, 0.1, 0.2]]
    wide = [record_of(run("optim=sam", f"optim.rho={rho}"), [90.0]) for rho in (0.01, 0.1, 1.0)]
    assert draw_sweep(asked("over=optim.rho", wide), "optim.rho").axes[0].get_xscale() == "log"
    names = [record_of(run(f"optim={name}"), [90.0]) for name in ("sam", "sgdm")]
    (axes,) = draw_sweep(asked("over=optim", names), "optim.name").axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["sam", "sgdm"]
    two = asked("over=optim.rho", [*records(), *records("protocol.epochs=2")])
    assert [text.get_text() for text in draw_sweep(two, "optim.rho").legends[0].get_texts()] == [
        *("sam epochs=2", "sam epochs=20")
    ]
