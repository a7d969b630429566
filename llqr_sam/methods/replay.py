"""J v at a point, many times, from one trace of the network.

Tracing a network in forward mode costs as much as dozens of gradient evaluations, and a refresh comes every few hundred
steps: so the network is traced once, with its parameters, buffers and inputs as arguments, and the trace is cut in two.
What does not depend on the tangent v runs once at each point; only the rest runs for each product.

A trace holds whatever Python decided while it was made. Its outputs are therefore compared with the network's own at
every point, and a difference means tracing again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from llqr_sam.methods.named import Named

Push = Callable[[Named], Tensor]


@dataclass(frozen=True)
class Point:
    """Where a network is differentiated.

    Attributes:
        model: The network, in inference mode while it is called.
        parameters: Its trainable parameters, the coordinates.
        constants: Its frozen parameters and buffers.
        inputs: A tensor, a tuple of positional arguments or a dictionary of keywords.
    """

    model: nn.Module
    parameters: Named
    constants: Named
    inputs: Any

    def outputs(self, parameters: Named | None = None) -> Any:
        """What the network returns, at these or at other parameters."""
        arguments = () if isinstance(self.inputs, dict) else self.inputs
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        keywords = self.inputs if isinstance(self.inputs, dict) else {}
        return functional_call(self.model, {**self.constants, **(parameters or self.parameters)}, arguments, keywords)


class Replay:
    """v -> J v for one network at changing points; keeps the latest trace."""

    def __init__(self) -> None:
        self._trace: _Trace | None = None

    def __call__(self, point: Point, outputs: Tensor) -> Push | None:
        """J at a point.

        Args:
            point: Where.
            outputs: The network's outputs there.

        Returns:
            v -> J v, or ``None`` where the network cannot be replayed.
        """
        for _ in range(2):
            fresh = self._trace is None or not self._trace.fits(point)
            try:
                self._trace = _Trace(point) if fresh else self._trace
                assert self._trace is not None
                replayed, push = self._trace.at(point)
            except (RuntimeError, NotImplementedError):
                break
            if _agree(replayed, outputs.detach()):
                return push
            self._trace = None
            if fresh:
                break
        self._trace = None
        return None


class _Trace:
    """One trace, cut into what the point decides and what the tangent decides."""

    def __init__(self, point: Point) -> None:
        leaves, self._structure = _leaves(point)
        self._signature = _signature(point)
        self._names = list(point.parameters)
        tangents = [torch.zeros_like(p) for p in point.parameters.values()]

        def outputs_and_push(leaves: list[Tensor], tangents: list[Tensor]) -> tuple[Tensor, Tensor]:
            at = self._point(point, leaves)
            tangent = dict(zip(self._names, tangents, strict=True))
            both: Any = jvp(at.outputs, (at.parameters,), (tangent,))  # its stub knows another form
            return both[0], both[1]

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing chatter about the network, not about its use here
            whole = make_fx(functionalize(outputs_and_push, remove="mutations"))(leaves, tangents)
        whole.graph.eliminate_dead_code()
        self._at_point, self._at_tangent = _cut(whole, len(leaves))

    def fits(self, point: Point) -> bool:
        """Whether this trace is of that network, and of inputs and tensors of those shapes."""
        return self._signature == _signature(point)

    def at(self, point: Point) -> tuple[Tensor, Push]:
        """The outputs at a point, and v -> J v there."""
        leaves, _ = _leaves(point)
        with torch.no_grad():
            outputs, *kept = self._at_point(*leaves)

        def push(v: Named) -> Tensor:
            with torch.no_grad():
                pushed: Tensor = self._at_tangent(*kept, *(v[name] for name in self._names))
            return pushed

        return outputs, push

    def _point(self, point: Point, leaves: list[Tensor]) -> Point:
        parameters, constants, inputs = tree_unflatten(leaves, self._structure)
        return Point(point.model, parameters, constants, inputs)


def _agree(replayed: Tensor, outputs: Tensor) -> bool:
    """Whether two computations of the outputs are one up to rounding; outputs that are not finite say nothing."""
    size = torch.linalg.vector_norm(outputs)
    return not bool(torch.isfinite(size)) or bool(torch.linalg.vector_norm(replayed - outputs) <= 1e-3 * size)


def _leaves(point: Point) -> tuple[list[Any], Any]:
    """Everything of a point that may differ from another's: tensors, detached, and plain values."""
    leaves, structure = tree_flatten((point.parameters, point.constants, point.inputs))
    return [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure


def _signature(point: Point) -> tuple[Any, ...]:
    leaves, structure = _leaves(point)
    kinds = [(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves]
    return id(point.model), structure, *kinds


def _cut(whole: fx.GraphModule, point_inputs: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """(leaves -> outputs, kept values...) and (kept values..., tangents -> pushed).

    Args:
        whole: Leaves and tangents, in this order, to ``(outputs, pushed)``.
        point_inputs: How many of its arguments are leaves.
    """
    arguments = [node for node in whole.graph.nodes if node.op == "placeholder"]
    (end,) = [node for node in whole.graph.nodes if node.op == "output"]
    moving = set(arguments[point_inputs:])
    for node in whole.graph.nodes:
        if node is not end and any(argument in moving for argument in node.all_input_nodes):
            moving.add(node)
    outputs, pushed = end.args[0]
    still = [node for node in whole.graph.nodes if node not in moving and node is not end]
    kept = [node for node in still if any(user in moving for user in node.users)]
    if pushed not in moving and pushed not in kept:
        kept.append(pushed)

    first = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in still:
        copies[node] = first.node_copy(node, copies.__getitem__)
    first.output((copies[outputs], *(copies[node] for node in kept)))

    second, copies = fx.Graph(), {}
    for i, node in enumerate(kept):
        copies[node] = second.placeholder(f"kept_{i}")
    for node in whole.graph.nodes:
        if node in moving:
            copies[node] = second.node_copy(node, copies.__getitem__)
    second.output(copies[pushed])
    for graph in (first, second):
        graph.eliminate_dead_code()
    return fx.GraphModule(whole, first), fx.GraphModule(whole, second)
