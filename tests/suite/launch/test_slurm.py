"""SLURM's side without a SLURM: profiles, and what is handed to it. tests/integration/slurm has a real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llqr_sam.data.registry import OWN
from llqr_sam.engine.tasks.registry import datasets
from llqr_sam.repository import PROFILES
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.launch import launch
from llqr_sam.suite.launch.preview import preview
from llqr_sam.suite.launch.slurm import FILES, Profile, _layout, _parameters, _times, profile_of, read_profile, submit
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.run.run_folder import Queued
from llqr_sam.suite.status.status import Status
from tests.suite.jobs import jobs_of, words_in
from tests.suite.slurm import commands


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_one(path):
    profile = read_profile(path.stem)
    assert profile == read_profile(str(path))
    assert profile.signal_delay < 60 * profile.minutes
    assert path.read_text().startswith("# ")
    assert f"{path.stem}.yaml" in (PROFILES / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("30:00", 30), ("2:59:00", 179), ("12:00:59", 720), ("1-00", 1440), ("2-12:30", 3630)],
)
def test_times_are_slurms(text, minutes):
    assert Profile(time=text).minutes == minutes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("time: soon", "time=soon is not a time. Write minutes or D-HH:MM:SS."),
        ("time: '0:30'", "must be a minute at least"),
        ("walltime: 3", "walltime"),
        ("cpus: many", "cpus"),
        ("- a", "is not a SLURM profile"),
        ("a: [", "is not a SLURM profile"),
        ("cpus: 1\ncpus: 2", "duplicate key cpus"),
        ("cpus: 0", "cpus=0 must be >= 1."),
        ("cpus: 1:30", "cpus"),
        ("devices_per_node: 0", "devices_per_node=0 must be >= 1."),
        ("array_parallelism: 0", "array_parallelism=0 must be >= 1."),
        ("signal_delay: -5", "signal_delay=-5 must be >= 1."),
        (
            "time: 1\nsignal_delay: 600",
            "signal_delay=600 must be less than time=1, which is 60",
        ),
    ],
)
def test_a_wrong_profile_is_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_profile(str(path))
    assert sentence in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "minutes"), [("12:00:00", 720), ("2:59:00", 179), ("90", 90), ("1-12:00:00", 2160)])
def test_a_time_needs_no_quotes(text, minutes, tmp_path):
    """12:00:00 is a whole number in YAML 1.1, and what slurm/README.md says the default is."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"time: {text}\ncpus: 6\nmem: 16\nsbatch: {{nice: 100, exclusive: true}}\npartition: null\n")
    profile = read_profile(str(path))
    assert (profile.minutes, profile.cpus, profile.mem, profile.partition) == (minutes, 6, "16", None)
    assert profile.sbatch == {"nice": "100", "exclusive": True}
    assert f"| {Profile().time} |" in (PROFILES / "README.md").read_text()


@pytest.mark.parametrize(("data", "root"), [("~/data", Path.home() / "data"), ("$NODE/data", Path("$NODE/data"))])
def test_a_data_root_may_be_below_the_home(data, root, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"data: {data}")
    assert read_profile(str(path)).data == str(root)


def test_an_empty_profile_is_the_default(tmp_path):
    path = tmp_path / "mine.yaml"
    path.touch()
    assert read_profile(str(path)) == Profile()


def test_options_of_sbatch_are_flags_or_left_out(tmp_path):
    profile = Profile(sbatch={"requeue": False, "exclusive": True, "comment": None, "nice": 0})
    given = _parameters(jobs_of(tmp_path), profile, Path("/a"), "name")
    assert given["slurm_additional_parameters"] == {"exclusive": True, "nice": 0}


def test_an_unknown_profile_names_the_known():
    with pytest.raises(UsageError, match=r"launch\.profile=none .* Choose from: alliance, generic; or name a file"):
        read_profile("none")


def test_without_slurm_it_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs a machine with sbatch and srun. Choose launch=local"):
        submit(jobs_of(tmp_path), Profile(), tmp_path, tmp_path, "name")


def test_jobs_know_what_to_stage_and_which_code_to_run(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert set(FILES) == set(datasets()) - {"digits", *OWN}
    jobs = jobs_of(tmp_path, "table=8", "optim=sgdm")
    given = _parameters(jobs, Profile(account="def-me", cpus=3, sbatch={"mail-type": "FAIL"}), Path("/a b"), "name")
    assert "export PYTHONPATH='/a b'" in "\n".join(given["slurm_setup"])
    assert f"export SUITE_DATA={tmp_path}/data" in given["slurm_setup"]
    files = " ".join(sorted({FILES[job.settings.dataset.name] for job in jobs}))
    assert f"export SUITE_FILES={files}" in "\n".join(given["slurm_setup"]).replace("'", "")
    assert given["slurm_account"] == "def-me"
    assert "slurm_partition" not in given
    assert given["slurm_cpus_per_task"] == 3
    assert given["slurm_additional_parameters"] == {"requeue": True, "mail-type": "FAIL"}


def test_a_run_on_several_devices_has_a_task_for_each(tmp_path):
    """Given for one device, gres and memory are asked for as often as there are devices on a node."""
    jobs = jobs_of(tmp_path, "optim=sgdm", "devices=16")
    given = _parameters(jobs, Profile(gres="gpu:a100:1", mem="16GB", cpus=3), Path("/a"), "name")
    assert (given["nodes"], given["tasks_per_node"], given["slurm_cpus_per_task"]) == (2, 8, 3)
    assert (given["slurm_gres"], given["slurm_mem"]) == ("gpu:a100:8", "128GB")
    assert "--kill-on-bad-exit=1" in given["slurm_srun_args"]
    assert [_layout(devices, 4) for devices in (1, 3, 4, 8)] == [(1, 1), (1, 3), (1, 4), (2, 4)]
    with pytest.raises(UsageError, match=r"devices=5 do not fill nodes of devices_per_node=4"):
        _layout(5, 4)
    assert [_times(asked, 4) for asked in ("gpu:1", "gpu", "gpu:a100", "0", None)] == [
        "gpu:4",
        "gpu:4",
        "gpu:a100:4",
        "0",
        None,
    ]
    assert _times("gpu:1", 1) == "gpu:1"


@pytest.mark.parametrize(("text", "minutes"), [("12:00:00", 720), ("2:59:00", 179), ("90", 90), ("2-00:00:00", 2880)])
def test_the_commands_words_go_before_the_profiles(text, minutes):
    """A time is no number in base 60 here either."""
    words = [f"launch.time={text}", "launch.array_parallelism=4", "launch.partition='a,b'", "launch.mem=16"]
    profile = profile_of(Command.of("launch=slurm", "launch.profile=alliance", *words).config.launch)
    assert (profile.minutes, profile.array_parallelism, profile.partition, profile.mem) == (minutes, 4, "a,b", "16")
    assert (profile.gres, profile.setup) == (read_profile("alliance").gres, read_profile("alliance").setup)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["launch.time=soon"], "launch.time=soon is not a time. Write minutes or D-HH:MM:SS."),
        (["launch.cpus=0"], "launch.cpus=0 must be >= 1."),
        (["launch.time=1"], "launch.signal_delay=120 must be less than time=1, which is 60 seconds."),
    ],
)
def test_the_commands_words_are_checked_as_the_profiles(words, sentence):
    with pytest.raises(UsageError) as error:
        profile_of(Command.of("launch=slurm", *words).config.launch)
    assert str(error.value) == sentence


def asked(folder: Path, *words: str) -> tuple[Status, Command]:
    """The status of ``python train.py <words> launch=slurm`` in ``folder``, and the command."""
    command = Command.of(*words_in(folder, *words, "launch=slurm"))
    return Status.under(plan(command), command.config), command


def launched(folder: Path, *words: str) -> int:
    status, command = asked(folder, *words)
    return launch(status, command.config)


def previewed(folder: Path, *words: str) -> str:
    status, command = asked(folder, *words)
    return "\n".join(preview(status, command.config))


def test_a_dry_run_shows_what_the_jobs_ask_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["table=demo", "optim=sgdm", "table.seeds=[0,1]", "devices=4", "launch.time=12:00:00"]
    shown = previewed(tmp_path, *words, "launch.account=def-me", "launch.array_parallelism=1")
    for part in (
        "queues 2 jobs, of which 1 may",
        "time 12:00:00",
        "nodes 1, tasks 4",
        "cpus 4",
        "gres gpu:4, mem 64GB",
    ):
        assert part in shown
    assert "account def-me" in shown
    assert "needs a machine with sbatch and srun" in shown
    assert shown.endswith("the data are here")
    with pytest.raises(UsageError, match=r"launch\.profile=none"):
        previewed(tmp_path, *words, "launch.profile=none")
    with pytest.raises(UsageError, match="devices=20 do not fill nodes"):
        previewed(tmp_path, "optim=sgdm", "devices=20", "protocol.batch_size=100")


MISSING = ("table=2", "arch=resnet18", "optim=sgdm")


def test_nothing_is_queued_whose_data_are_not_here(tmp_path, monkeypatch):
    """As with launch=inline; 140 jobs failed in a minute before."""
    calls = commands(tmp_path, monkeypatch, sbatch="echo Submitted batch job 7", srun="")
    sentence = f"dataset=cifar100 is not at {tmp_path}/none/cifar100.npz. Prepare it with: python scripts/prepare_d"
    with pytest.raises(UsageError, match=sentence):
        launched(tmp_path, *MISSING, f"paths.data={tmp_path}/none")
    assert sentence in previewed(tmp_path, *MISSING, f"paths.data={tmp_path}/none")
    assert not calls()


@pytest.mark.parametrize(
    ("profile", "looked_for"),
    [
        ("data: /scratch/data", False),
        ("data: $SLURM_TMPDIR/data\nsetup: ['tar -xf \"$SUITE_DATA/all.tar\"']", False),
        ("data: $SLURM_TMPDIR/data\nsetup: ['cp $SUITE_DATA/$SUITE_FILES .']", True),
        ("time: 60", True),
    ],
)
def test_data_that_only_the_nodes_have_are_not_looked_for(profile, looked_for, tmp_path):
    """What the setup lines copy must be here all the same."""
    (tmp_path / "mine.yaml").write_text(profile)
    (tmp_path / "empty").mkdir()
    words = (*MISSING, f"launch.profile={tmp_path}/mine.yaml")
    shown = previewed(tmp_path, *words, f"paths.data={tmp_path}/empty")
    assert ("Prepare it with" in shown) == looked_for
    assert ("cannot be looked for from here: the SLURM profile says data=" in shown) != looked_for
    copied = "SUITE_DATA" in profile
    assert ("Prepare it with" in previewed(tmp_path, *words, f"paths.data={tmp_path}/none")) == (looked_for or copied)


def test_a_path_may_be_on_the_nodes_alone(tmp_path):
    shown = previewed(tmp_path, *MISSING, "dataset.path=/scratch/cifar100.npz")
    assert "dataset.path=/scratch/cifar100.npz must be on the compute nodes" in shown


def test_a_run_is_queued_once(tmp_path, monkeypatch, capsys):
    """The note of its job stays in its folder; when squeue no longer lists the job, the run is queued again."""
    squeue = f"cat {tmp_path}/queue"
    (tmp_path / "queue").write_text("7_0|PENDING|Priority\n7_1|PENDING|JobHeldUser\n")
    calls = commands(tmp_path, monkeypatch, sbatch="echo Submitted batch job 7", srun="", squeue=squeue, scontrol="")
    words = ["table=demo", "optim=sgdm", "table.seeds=[0,1]", "protocol.epochs=1"]
    status, _ = asked(tmp_path, *words)
    assert launched(tmp_path, *words) == 0
    ids = [run.run_id for run in status.runs]
    assert capsys.readouterr().out == f"7_0  sgdm s0  {ids[0]}\n7_1  sgdm s1  {ids[1]}\n"
    assert json.loads(Queued.path(tmp_path / "work" / ids[1]).read_bytes())["job"] == "7_1"
    assert all("SIG_BLOCK" in path.read_text() for path in (tmp_path / "work" / "slurm").glob("*.sh"))

    assert launched(tmp_path, *words) == 0
    error = capsys.readouterr().err
    assert "2 runs: 2 missing (2 queued)" in error
    assert f"{ids[0]}: queued: job 7_0 pending (Priority): left alone" in error
    assert f"{ids[1]}: held: job 7_1 (JobHeldUser): left alone" in error
    assert "scancel" in error
    assert launched(tmp_path, "optim=sgdm", *words[3:]) == 0
    assert [call for call in calls() if call.startswith("sbatch")] == ["sbatch"] * 2  # a run of no table is another

    (tmp_path / "queue").write_text("7_1|PENDING|JobHeldUser\n")
    assert launched(tmp_path, *words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"7  sgdm s0  {ids[0]}"
