"""Names runs by what varies among them: ``sam rho=0.05 s1``.

A run's settings are read as one flat dict, dotted key -> value (``leaves``). Its data set, network, method and geometry
are its identity. A setting *varies* if it differs between runs of one identity: what differs between SAM and SGDM, or
between CIFAR-10 and ImageNet, because their files say so, is said by their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llqr_sam.engine.settings.flat import leaves
from llqr_sam.suite.plan.plan import Planned

Flat = Mapping[str, Any]  # dotted key -> value; a key without a value is absent
NETWORK = ("dataset.name", "arch.name")
METHOD = ("optim.name", "optim.divergence")
IDENTITY = NETWORK + METHOD
SEED = "seed"


def labels(runs: Sequence[Planned], swept: Collection[str] = ()) -> dict[str, str]:
    """Run id -> label: data set and network where they differ, the method, what varies, and the seed.

    ``swept`` are further keys that vary, among runs that are not planned here.
    """
    settings = [leaves(run.settings.as_dict()) for run in runs]
    networks = [key for key in NETWORK if len({run[key] for run in settings}) > 1]
    named: dict[str, str] = {}
    for planned, run, values in zip(runs, settings, varying(settings, swept), strict=True):
        names = short_names(values)
        words = [f"{names[key]}={value}" for key, value in values.items() if value is not None]
        parts = [*(run[key] for key in networks), method_name(run), *words, f"s{run[SEED]}"]
        named[planned.run_id] = " ".join(parts)
    return named


def varying(runs: Sequence[Flat], swept: Collection[str] = ()) -> list[dict[str, str | None]]:
    """For each run the text of the settings that vary, in their order; the keys are the same for all runs.

    A setting of the method (``optim.``) is compared within an identity. Any other is compared between all runs of a
    network: no method changes how many epochs there are. ``None``: no run of the identity has the setting. The keys
    ``swept`` vary in any case.
    """
    keys = [key for key in dict.fromkeys(key for run in runs for key in run) if key not in (*IDENTITY, SEED)]
    found: dict[tuple[tuple[Any, ...], str], set[str]] = defaultdict(set)
    known = {(place(run, IDENTITY), key) for run in runs for key in run}
    for run in runs:
        for key in keys:
            found[place(run, IDENTITY), key].add(text(run.get(key)))
            if key in run and not key.startswith("optim."):
                found[place(run, NETWORK), key].add(text(run[key]))
    varied = {key for (_, key), values in found.items() if len(values) > 1 or key in swept}
    return [
        {key: text(run.get(key)) if (place(run, IDENTITY), key) in known else None for key in keys if key in varied}
        for run in runs
    ]


def place(run: Flat, keys: Sequence[str]) -> tuple[Any, ...]:
    """The run's values of some keys."""
    return tuple(run.get(key) for key in keys)


def short_names(keys: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Key -> its last part, or the whole key where two have the same last part."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def text(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(text, value))}]"
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def method_name(run: Flat) -> str:
    """The method and its geometry: ``llqr_sam-ngd``."""
    return "-".join(str(run[key]) for key in METHOD if key in run)
