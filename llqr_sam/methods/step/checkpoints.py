"""The optimizer's own state in the form that every checkpoint library carries: tensors by parameter, and plain values.

    state_dict()["state"][parameter]["sharpness_aware/direction/average/*"]      * stands for the parameter's name
    state_dict()["param_groups"][0]["sharpness_aware/steps"]

``torch.distributed.checkpoint`` keeps these two entries alone. A tensor of a parameter's name goes with that parameter,
spread over ranks as it is; any other tensor goes with the first parameter, under its whole path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from torch import Tensor

from llqr_sam.methods.shards import is_spread, local
from llqr_sam.methods.step.trained import Trained

PREFIX = "sharpness_aware/"
Nested = dict[str, Any]


def packed(own: Mapping[str, Any], base: Mapping[str, Any], trained: Trained) -> Nested:
    """Returns the base's ``state_dict`` with our own state inside.

    Args:
        own: Nested dictionaries with strings as keys, of tensors and plain values.
        base: The base's ``state_dict``.
        trained: The parameters in the base's order.
    """
    state = {number: dict(values) for number, values in base["state"].items()}
    groups = [dict(group) for group in base["param_groups"]]
    numbers = dict(zip(trained.names, _numbers(groups), strict=True))
    parameters = dict(zip(trained.names, trained.parameters, strict=True))
    for path, value in _leaves(own):
        owner = next((part for part in path if part in numbers), None) if isinstance(value, Tensor) else None
        key = PREFIX + "/".join("*" if part == owner else quote(part, safe="") for part in path)
        if not isinstance(value, Tensor):
            groups[0][key] = value
        elif owner is None:
            state.setdefault(_numbers(groups)[0], {})[key] = value
        else:
            state.setdefault(numbers[owner], {})[key] = _spread_like(parameters[owner], value)
    return {**base, "state": state, "param_groups": groups}


def unpacked(state_dict: Mapping[str, Any], trained: Trained) -> tuple[Nested, Nested]:
    """Inverse of ``packed``.

    Returns:
        Our own state, and the base's ``state_dict``.

    Raises:
        ValueError: there is no state of our own, or the groups have other numbers of parameters than these.
    """
    if not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError("this is no state of an optimizer: it needs the entries 'state' and 'param_groups'.")
    numbers = _numbers(state_dict["param_groups"])
    if len(numbers) != len(trained.names):
        raise ValueError(
            f"the saved state is of {len(numbers)} parameters, and this optimizer has {len(trained.names)}."
        )
    own: Nested = dict(state_dict.get("sharpness_aware", {}), placeholders=[])  # where version 0.1.0 had it all
    for number, name, parameter in zip(numbers, trained.names, trained.parameters, strict=True):
        for key, value in _ours(state_dict["state"].get(number, {})).items():
            path = [name if part == "*" else unquote(part) for part in key.split("/")]
            _put(own, path, _part_of(parameter, value) if "*" in key else value)
    for group in state_dict["param_groups"]:
        for key, value in _ours(group).items():
            _put(own, [unquote(part) for part in key.split("/")], value)
    if "parts" not in own:
        raise ValueError(
            "this state was saved by another optimizer, such as the base alone, or flattened for "
            "torch.distributed.checkpoint; load the base's part with optimizer.base.load_state_dict(state)."
        )
    state = {number: _others(values) for number, values in state_dict["state"].items()}
    base = {
        **{key: value for key, value in state_dict.items() if key != "sharpness_aware"},
        "state": {number: values for number, values in state.items() if values},
        "param_groups": [_others(group) for group in state_dict["param_groups"]],
    }
    return own, base


def _numbers(groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    """How a state names the parameters, in order."""
    return [number for group in groups for number in group["params"]]


def _ours(values: Mapping[str, Any]) -> Nested:
    return {key.removeprefix(PREFIX): v for key, v in values.items() if str(key).startswith(PREFIX)}


def _others(values: Mapping[str, Any]) -> Nested:
    return {key: value for key, value in values.items() if not str(key).startswith(PREFIX)}


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no dictionary with entries, with its path."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _put(tree: Nested, path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _spread_like(parameter: Any, part: Tensor) -> Tensor:
    """Returns a local part as the DTensor that its parameter is; under an ordinary parameter, the part itself."""
    if not is_spread(parameter) or part.shape != local(parameter).shape:
        return part
    how = {"shape": parameter.shape, "stride": parameter.stride(), "run_check": False}
    whole: Tensor = type(parameter.data).from_local(part, parameter.device_mesh, parameter.placements, **how)
    return whole


def _part_of(parameter: Any, value: Any) -> Any:
    """Inverse of ``_spread_like``; a whole tensor is spread first."""
    if not is_spread(parameter) or not isinstance(value, Tensor):
        return value
    if not is_spread(value):
        if value.shape != parameter.shape:
            return value
        from torch.distributed.tensor import distribute_tensor  # half a second to import, and loaded where it is used

        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    spread: Any = value
    return local(spread.redistribute(placements=parameter.placements))
