"""The derivative of a network along many directions, from one trace of it in forward mode.

Tracing costs dozens of gradient evaluations, so a network is traced once for each shape of minibatch. The trace is cut
in two: what depends on the point alone runs once at each point, and the rest for each direction v. It holds whatever
Python decided while it was made, so at each point it is compared with the network, and made anew where they differ.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from llqr_sam.methods.curvature.inference import ReverseModeRules
from llqr_sam.methods.curvature.point import Point, first_line
from llqr_sam.methods.named import Named

aten = torch.ops.aten
Nodes = Sequence[fx.Node]
Push = Callable[[Named], list[Tensor]]
Verify = Callable[["ForwardTrace", Push], bool]

KEPT = 8
"""Traces of one network that are kept, the latest used: a stream of minibatches has few shapes."""


class UntraceableError(RuntimeError):
    """The network's operations depend on more than the shapes of its inputs."""


class TraceCache:
    """Traces of one network by signature; ``disabled`` says why nothing is traced, and is empty where something is."""

    def __init__(self, disabled: str = "") -> None:
        self.refusal = self._disabled = disabled  # why the latest point was not replayed; empty where it was
        self.traces: OrderedDict[tuple[Any, ...], ForwardTrace] = OrderedDict()  # the latest used last
        self._refused: OrderedDict[tuple[Any, ...], str] = OrderedDict()

    def at(self, point: Point, values: Sequence[Tensor], verify: Verify) -> Push | None:
        """v -> J v at a point, or ``None`` where the network cannot be replayed (``refusal`` says why).

        A trace must have these ``values``, and ``verify`` says whether its derivative is the network's.
        """
        self.known(point)
        while not self.refusal:
            key = signature(point)
            fresh = key not in self.traces
            # An error of functionalize leaves guards in its frames, and these turn autograd off when it is dropped.
            with torch._C._PreserveDispatchKeyGuard():
                try:
                    trace = self.traces.pop(key, None) or ForwardTrace(point)
                    found, push = trace.at(point)
                    if agree(found, values, point.precision.eps) and verify(trace, push):
                        self.traces[key] = trace
                        if len(self.traces) > KEPT:
                            self.traces.popitem(last=False)
                        return push
                    reason = "the trace has other values or derivatives than the network"
                except torch.OutOfMemoryError:  # no fault of the network's: the next call tries again
                    raise
                except Exception as error:  # the network itself has just run, so this is the trace's error
                    reason = first_line(error)
            if fresh:
                self.refusal = self._refused[key] = reason
                if len(self._refused) > 8 * KEPT:
                    self._refused.popitem(last=False)
        return None

    def known(self, point: Point) -> ForwardTrace | None:
        """The trace that a call at this point starts with; sets ``refusal`` where the point is known to have none."""
        self.refusal = self._disabled
        if self.refusal:
            return None
        try:
            key = signature(point)
        except UntraceableError as error:
            self.refusal = str(error)
            return None
        self.refusal = self._refused.get(key, "")
        return self.traces.get(key)


class ForwardTrace:
    """``Point.values`` and their derivative, for all points of one signature; UntraceableError where there are none."""

    def __init__(self, point: Point) -> None:
        leaves, structure = _leaves(point)
        self.verified_for: Any = None  # the loss, or "J v", that the caller has compared it for
        names, tangents = list(point.parameters), [torch.zeros_like(p) for p in point.parameters.values()]
        self._strides = {name: t.stride() for name, t in zip(names, tangents, strict=True)}

        def values_and_push(leaves: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            at = replace(point, **dict(zip(point.varying, tree_unflatten(leaves, structure), strict=True)))
            both: Any = jvp(at.values, (at.parameters,), (dict(zip(names, tangents, strict=True)),))
            return [*both[0], *both[1]]

        # Nothing is compiled here (inference.py), so the compiler need not refuse to be traced through.
        untouched = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
        with warnings.catch_warnings(), untouched, ReverseModeRules():
            warnings.simplefilter("ignore")  # tracing chatter about the network, not about its use here
            whole = make_fx(functionalize(values_and_push, remove="mutations"), _REPLACED)(leaves, tangents)
        for node in whole.graph.nodes:
            # The trace would fix a size that depends on values, such as that of ``nonzero``.
            resized = torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ())
            if resized and node.target is not aten.index.Tensor:
                raise UntraceableError(f"the shape of what {node.target} returns depends on the data")
        whole.graph.eliminate_dead_code()
        self._at_point, self._at_tangent, self._count = _cut(whole, len(leaves))

    def at(self, point: Point) -> tuple[list[Tensor], Push]:
        """The values at a point of this trace's signature, and v -> J v there, one tensor for each value."""
        with torch.no_grad():
            found = self._at_point(*_leaves(point)[0])
        values, kept = found[: self._count], found[self._count :]

        def push(v: Named) -> list[Tensor]:
            return list(self._at_tangent(*kept, *(_strided(v[name], s) for name, s in self._strides.items())))

        return list(values), push


def agree(found: Sequence[Tensor], expected: Sequence[Tensor], eps: float = 0.0) -> bool:
    """Whether two computations of the same tensors are equal up to rounding, tensor by tensor; true if not finite.

    A tensor far smaller than the others may be all rounding. ``eps`` is as of ``Precision``.
    """
    expected = [t.detach() for t in expected]
    sizes = torch.stack(torch._foreach_norm(expected))
    whole = torch.linalg.vector_norm(sizes)
    differences = torch.stack(torch._foreach_norm(torch._foreach_sub(list(found), expected)))
    relative, rounding = (1e-7, 1e-11) if whole.dtype == torch.float64 else (1e-3, 1e-5)
    relative, rounding = max(relative, 8 * eps), max(rounding, eps)
    return not bool(torch.isfinite(whole)) or bool((differences <= relative * sizes + rounding * whole).all())


def signature(point: Point) -> tuple[Any, ...]:
    """What a trace of a network is made for: the shapes and types of all tensors, and all plain values."""
    leaves, structure = _leaves(point)
    for x in leaves:
        if not isinstance(x, (Tensor, bool, int, float, str, type(None), torch.dtype, torch.device)):
            raise UntraceableError(f"an input of type {type(x).__name__} is no tensor")
    return str(structure), *((x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves)


def _leaves(point: Point) -> tuple[list[Any], Any]:
    """Returns what differs from point to point: tensors, detached, and plain values."""
    leaves, structure = tree_flatten(tuple(getattr(point, name) for name in point.varying))
    return [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure


def _cut(whole: fx.GraphModule, point_inputs: int) -> tuple[fx.GraphModule, fx.GraphModule, int]:
    """Cuts a trace where the tangents enter: (leaves -> values, kept), (kept, tangents -> pushed), number of values."""
    *nodes, end = whole.graph.nodes
    results: Nodes = end.args[0]
    values, pushed = results[: len(results) // 2], results[len(results) // 2 :]
    placeholders = [node for node in nodes if node.op == "placeholder"]
    leaves, tangents = placeholders[:point_inputs], placeholders[point_inputs:]
    moving = set(tangents)
    for node in nodes:
        if not moving.isdisjoint(node.all_input_nodes):
            moving.add(node)
    still = [node for node in nodes if node not in moving]
    kept = [node for node in still if node in pushed or not moving.isdisjoint(node.users)]
    at_point = _part(whole, leaves, still, [*values, *kept])
    return at_point, _part(whole, [*kept, *tangents], [node for node in nodes if node in moving], pushed), len(values)


def _part(whole: fx.GraphModule, inputs: Nodes, nodes: Nodes, outputs: Nodes) -> fx.GraphModule:
    """The operations ``nodes`` alone, by which the outputs follow from the inputs."""
    part = fx.Graph()
    copies = {node: part.placeholder(f"input_{i}") for i, node in enumerate(inputs)}
    for node in nodes:
        if node not in copies:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(tuple(copies[node] for node in outputs))
    part.eliminate_dead_code()
    return fx.GraphModule(whole, part)


def _strided(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Returns the tensor in the memory layout that was traced, which traced views of a parameter need."""
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _copy(old: Tensor, new: Tensor, non_blocking: bool = False) -> Tensor:
    """A functional copy, which has no derivative of its own; laid out in memory as what it replaces."""
    new = new.to(old).expand_as(old)
    return new if new.stride() == old.stride() else torch.zeros_like(old) + new


def _refuse_masks(tensor: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """Torch tags all indexing as having a shape that depends on the data; only masks have one."""
    if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        raise UntraceableError("the shape of what aten.index.Tensor returns depends on the data")
    return NotImplemented  # traced as it is


_REPLACED: Mapping[Any, Callable[..., Any]] = {
    # Zero tangents have no memory in torch's forward mode, and kernels that a trace calls would read it and crash.
    aten._efficientzerotensor.default: lambda size, **like: torch.zeros(size, **like),
    aten.copy.default: _copy,
    aten.index.Tensor: _refuse_masks,
}
"""Operations that a trace holds in another form."""
