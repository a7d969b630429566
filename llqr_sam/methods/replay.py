"""The derivative of a function of the parameters along many directions, from one trace of the network.

Tracing a network in forward mode costs as much as dozens of gradient evaluations, and a refresh comes every few hundred
steps: so the network is traced once, with its parameters, buffers and minibatch as arguments, and the trace is cut in
two. What does not depend on the direction v runs once at each point; only the rest runs for each product.

A trace holds whatever Python decided while it was made. Its values are therefore compared with the network's own at
every point, and a difference means tracing again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from llqr_sam.methods.named import Named

Push = Callable[[Named], list[Tensor]]


@dataclass(frozen=True)
class Point:
    """Where a network is differentiated.

    Attributes:
        model: The network, in inference mode while it is called.
        parameters: Its trainable parameters, the coordinates.
        constants: Its frozen parameters and buffers.
        inputs: A tensor, a tuple of positional arguments or a dictionary of keywords.
    """

    varying: ClassVar[tuple[str, ...]] = ("parameters", "constants", "inputs")
    """Fields that differ from point to point."""

    model: nn.Module
    parameters: Named
    constants: Named
    inputs: Any

    def outputs(self, parameters: Named | None = None) -> Tensor:
        """What the network returns, at these or at other parameters.

        Raises:
            TypeError: it is not a tensor.
        """
        arguments = () if isinstance(self.inputs, dict) else self.inputs
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        keywords = self.inputs if isinstance(self.inputs, dict) else {}
        tensors = {**self.constants, **(parameters or self.parameters)}
        outputs = functional_call(self.model, tensors, arguments, keywords)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"LLQR needs a model that returns one tensor of outputs, not {type(outputs).__name__}; "
                "wrap it in a module that returns its logits."
            )
        return outputs

    def values(self, parameters: Named) -> list[Tensor]:
        """The function that is traced: here the outputs."""
        return [self.outputs(parameters)]


class Replay:
    """v -> (d values / d theta) v for one network at changing points; keeps the latest trace."""

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self._refused: tuple[Any, ...] | None = None

    def __call__(self, point: Point, values: Sequence[Tensor]) -> Push | None:
        """The derivative at a point.

        Args:
            point: Where.
            values: What the function is there, computed without a trace.

        Returns:
            v -> one tensor for each value, or ``None`` where the network cannot be replayed.

        Raises:
            OutOfMemoryError: the device is full; the next call tries again.
        """
        if signature(point) == self._refused:
            return None
        for _ in range(2):
            fresh = self.trace is None or not self.trace.fits(point)
            try:
                self.trace = Trace(point) if fresh else self.trace
                assert self.trace is not None
                replayed, push = self.trace.at(point)
            except torch.OutOfMemoryError:  # a RuntimeError too, but no fault of the network's
                raise
            except (RuntimeError, NotImplementedError):
                break
            if agree(replayed, values):
                return push
            self.trace = None
            if fresh:
                break
        self.refuse(point)
        return None

    def refuse(self, point: Point) -> None:
        """Never again replay the network at points like this one."""
        self.trace, self._refused = None, signature(point)


class Trace:
    """One trace, cut into what the point decides and what the direction decides."""

    def __init__(self, point: Point) -> None:
        leaves, self._structure = _leaves(point)
        self._signature = signature(point)
        self._names = list(point.parameters)
        tangents = [torch.zeros_like(p) for p in point.parameters.values()]
        self._strides = [t.stride() for t in tangents]

        def values_and_push(leaves: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            at = self._point(point, leaves)
            tangent = dict(zip(self._names, tangents, strict=True))
            both: Any = jvp(at.values, (at.parameters,), (tangent,))  # its stub knows another form
            return [*both[0], *both[1]]

        # The compiler stands aside (inference.py), and need not refuse to be traced through.
        untouched = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
        with warnings.catch_warnings(), torch.no_grad(), untouched, _FixedPadding():
            warnings.simplefilter("ignore")  # tracing chatter about the network, not about its use here
            whole = make_fx(functionalize(values_and_push, remove="mutations"))(leaves, tangents)
        whole.graph.eliminate_dead_code()
        self._at_point, self._at_tangent, self._count = _cut(whole, len(leaves))

    def fits(self, point: Point) -> bool:
        """Whether this trace is of that network, and of inputs and tensors of those shapes."""
        return self._signature == signature(point)

    def at(self, point: Point) -> tuple[list[Tensor], Push]:
        """The values at a point, and v -> their derivative along v there."""
        leaves, _ = _leaves(point)
        with torch.no_grad():
            found = self._at_point(*leaves)
        values, kept = found[: self._count], found[self._count :]

        def push(v: Named) -> list[Tensor]:
            tangents = [_strided(v[name], stride) for name, stride in zip(self._names, self._strides, strict=True)]
            with torch.no_grad():
                return list(self._at_tangent(*kept, *tangents))

        return list(values), push

    def _point(self, point: Point, leaves: list[Tensor]) -> Point:
        return replace(point, **dict(zip(point.varying, tree_unflatten(leaves, self._structure), strict=True)))


class _FixedPadding(TorchFunctionMode):
    """An embedding's padding row does not move in forward mode either, which torch's backward pass alone sees to."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        padding = kwargs["padding_idx"] if func is nn.functional.embedding else None
        if padding is None:
            return found
        tokens, weight = args
        return torch.where((tokens == padding % len(weight)).unsqueeze(-1), found.detach(), found)


def agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether two computations of the same values are one up to rounding; values that are not finite say nothing."""
    size = _norm(expected)
    differences = [a - b.detach() for a, b in zip(found, expected, strict=True)]
    return not bool(torch.isfinite(size)) or bool(_norm(differences) <= 1e-3 * size)


def signature(point: Point) -> tuple[Any, ...]:
    """What a trace is made for: the network, the shapes and types of all tensors, and all plain values."""
    leaves, structure = _leaves(point)
    kinds = [(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves]
    return id(point.model), structure, *kinds


def _strided(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The tensor in the memory layout that was traced: a view of a parameter is one of no other."""
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = torch.stack(torch._foreach_norm([t.detach() for t in tensors]))
    norm: Tensor = torch.linalg.vector_norm(norms)
    return norm


def _leaves(point: Point) -> tuple[list[Any], Any]:
    """Everything of a point that may differ from another's: tensors, detached, and plain values."""
    leaves, structure = tree_flatten(tuple(getattr(point, name) for name in point.varying))
    return [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure


def _cut(whole: fx.GraphModule, point_inputs: int) -> tuple[fx.GraphModule, fx.GraphModule, int]:
    """(leaves -> values..., kept...), (kept..., tangents -> pushed...), and the number of values.

    Args:
        whole: Leaves and tangents, in this order, to values and as many pushed.
        point_inputs: How many of its arguments are leaves.
    """
    arguments = [node for node in whole.graph.nodes if node.op == "placeholder"]
    (end,) = [node for node in whole.graph.nodes if node.op == "output"]
    results: Sequence[fx.Node] = end.args[0]
    values, pushed = results[: len(results) // 2], results[len(results) // 2 :]
    moving = set(arguments[point_inputs:])
    for node in whole.graph.nodes:
        if node is not end and any(argument in moving for argument in node.all_input_nodes):
            moving.add(node)
    still = [node for node in whole.graph.nodes if node not in moving and node is not end]
    kept = [node for node in still if node in pushed or any(user in moving for user in node.users)]

    first = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in still:
        copies[node] = first.node_copy(node, copies.__getitem__)
    first.output(tuple(copies[node] for node in (*values, *kept)))

    second, copies = fx.Graph(), {}
    for i, node in enumerate(kept):
        copies[node] = second.placeholder(f"kept_{i}")
    for node in whole.graph.nodes:
        if node in moving:
            copies[node] = second.node_copy(node, copies.__getitem__)
    second.output(tuple(copies[node] for node in pushed))
    for graph in (first, second):
        graph.eliminate_dead_code()
    return fx.GraphModule(whole, first), fx.GraphModule(whole, second), len(values)
