"""The tasks, and which one a data set belongs to."""

from __future__ import annotations

import importlib.util
from operator import attrgetter

from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks.classification import Classification
from llqr_sam.engine.tasks.task import Task
from llqr_sam.engine.tasks.translation import Translation

TASKS: tuple[type[Task], ...] = (Classification, Translation)


def datasets() -> tuple[str, ...]:
    """Names of all data sets (``DatasetSettings.reader``)."""
    return tuple(name for task in TASKS for name in task.datasets())


def archs() -> tuple[str, ...]:
    """Names of all networks (``ArchSettings.builder``)."""
    return tuple(name for task in TASKS for name in task.archs())


def task_for(dataset: str) -> type[Task]:
    """The task of a data set (``DatasetSettings.reader``); ValueError where there is no data set of that name."""
    for task in TASKS:
        if dataset in task.datasets():
            return task
    raise ValueError(f"dataset={dataset} is not a data set here. Choose from: {', '.join(datasets())}.")


def check_inputs(arch: str, dataset: str) -> None:
    """Raise ValueError where there is no such network or data set, or they belong to different tasks."""
    task = task_for(dataset)
    if arch not in archs():
        raise ValueError(f"arch={arch} is not a network here. Choose from: {', '.join(archs())}.")
    if arch not in task.archs():
        takes = next(other.inputs for other in TASKS if arch in other.archs())
        raise ValueError(
            f"arch={arch} takes {takes}, dataset={dataset} has {task.inputs}. "
            f"Choose arch from: {', '.join(task.archs_for(dataset))}."
        )


def check(settings: RunSettings, devices: int = 1) -> None:
    """Raise ValueError where the parts of a run on so many devices do not fit together, before any data are read."""
    dataset = settings.dataset.reader
    check_inputs(settings.arch.builder, dataset)
    task = task_for(dataset)
    for key in task.required_keys:
        if attrgetter(key)(settings) is None:
            raise ValueError(f"{key}=null must have a value for dataset={dataset}.")
    for key, unused in (item for other in TASKS if other is not task for item in other.own_keys.items()):
        if (value := attrgetter(key)(settings)) != unused:
            default = "null" if unused is None else unused
            raise ValueError(f"{key}={value} has no use with dataset={dataset}: leave it at {default}.")
    task.check(settings)
    if devices > 1 and not task.several_devices:
        raise ValueError(f"devices={devices} has no use with dataset={dataset}: use devices=1.")


def check_installed(settings: RunSettings, *, flatness: bool) -> None:
    """Raise ValueError where an optional package is missing, or ``flatness`` is asked of a task that has none."""
    task = task_for(settings.dataset.reader)
    task.check_installed(settings)
    if flatness and not task.measures_flatness:
        raise ValueError(f"sharpness=true has no use with dataset={settings.dataset.reader}: it needs images.")
    if flatness and importlib.util.find_spec("curvlinops") is None:
        raise ValueError("sharpness=true needs curvlinops, which is not installed: pip install -e '.[sharpness]'")
