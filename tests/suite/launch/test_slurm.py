"""SLURM's side without a SLURM: profiles, and what is handed to it. tests/integration/slurm has a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.data.registry import OWN
from llqr_sam.engine.tasks.registry import datasets
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.slurm import FILES, PROFILES, Profile, _layout, _parameters, _times, read_profile, submit
from tests.suite.jobs import jobs_of


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
        ("time: soon", "time=soon of the SLURM profile is not a time. Write minutes or D-HH:MM:SS."),
        ("time: '0:30'", "must be a minute at least"),
        ("walltime: 3", "walltime"),
        ("cpus: many", "cpus"),
        ("- a", "is not a SLURM profile"),
        ("a: [", "is not a SLURM profile"),
        ("cpus: 1\ncpus: 2", "duplicate key cpus"),
        ("cpus: 0", "cpus=0 of the SLURM profile must be >= 1."),
        ("cpus: 1:30", "cpus"),
        ("devices_per_node: 0", "devices_per_node=0 of the SLURM profile must be >= 1."),
        ("array_parallelism: 0", "array_parallelism=0 of the SLURM profile must be >= 1."),
        ("signal_delay: -5", "signal_delay=-5 of the SLURM profile must be >= 1."),
        (
            "time: 1\nsignal_delay: 600",
            "signal_delay=600 of the SLURM profile must be less than its time=1, which is 60",
        ),
    ],
)
def test_a_wrong_profile_is_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_profile(str(path))
    assert sentence in str(error.value)
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
