"""Elementwise U: one flat vector of scales for any number of tensors.

Each tensor's scales lie in the memory order of the parameter (channels_last, say): operations on lists of tensors are
one kernel on a GPU only where the lists agree in strides, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from llqr_sam.methods.blocks.block import Block, Factors, HeavyBall, Learner
from llqr_sam.methods.blocks.layout import Vector
from llqr_sam.methods.named import Named


class Diagonal(Block):
    """U x = d * x for tensors of any shapes; d is ``[1, P]``, P the number of entries in all.

    ``joint``: it is the whole of U (structure diagonal). Then the tensors of a layer are clipped as one vector, and
    entries stay at least ``floor``. Otherwise each tensor is clipped by itself, and entries may become negative. In
    both cases a tensor of several parts is clipped part by part (authors' code).
    """

    floor: ClassVar[float] = 1e-8  # smallest entry after averaging under structure diagonal (authors' code)

    def __init__(self, parameters: Sequence[Vector], *, joint: bool, dtype: torch.dtype, device: torch.device) -> None:
        self._joint = joint
        self._shapes = {p.name: p.shape for p in parameters}
        self.parts = [p.parts for p in parameters]
        keys = [(p.layer if joint else p.name, *part) for p in parameters for part in p.slices()]
        groups = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        self.groups = torch.tensor([groups[key] for key in keys], device=device)  # [parts]: which group clips each
        self.group_count = len(groups)
        size = sum(shape.numel() for shape in self._shapes.values())
        self._strides = {name: torch.empty(shape, device="meta").stride() for name, shape in self._shapes.items()}
        self.factors = {"d": torch.ones(1, size, dtype=dtype, device=device)}
        self._views: dict[torch.dtype, tuple[int, Named]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the views of d, which a copy or a pickle would keep as tensors of their own."""
        return {**vars(self), "_views": {}}

    def lay_out(self, like: Mapping[str, Tensor]) -> None:
        """Puts d in the memory order of these tensors; its values, and those of earlier views, stay."""
        strides = {name: torch.empty_like(like[name], device="meta").stride() for name in self._shapes}
        if strides == self._strides:
            return
        d = self.factors["d"]
        before, self._strides = self._in(d.dtype), strides
        self.factors, self._views = {"d": torch.empty_like(d)}, {}
        torch._foreach_copy_(list(self._in(d.dtype).values()), list(before.values()))

    def views(self, flat: Tensor) -> Named:
        """Returns named views of a vector ``[1, P]``, each in its parameter's memory order."""
        pieces = torch.split(flat.squeeze(0), [shape.numel() for shape in self._shapes.values()])
        shapes = zip(pieces, self._shapes.items(), strict=True)
        return {name: x.as_strided(shape, self._strides[name]) for x, (name, shape) in shapes}

    def learner(self, gradient: Named, descent: HeavyBall) -> Learner:
        self.lay_out(gradient)
        return DiagonalLearner(self, gradient, descent)

    def apply(self, named: Mapping[str, Tensor]) -> Named:
        scales, gradients = self._paired(named)
        if not gradients:
            return {}
        return dict(zip(gradients, torch._foreach_mul(scales, list(gradients.values())), strict=True))

    def apply_(self, named: Mapping[str, Tensor]) -> None:
        scales, gradients = self._paired(named)
        if gradients:
            torch._foreach_mul_(list(gradients.values()), scales)

    def named_factors(self) -> dict[str, Factors]:
        return {name: {"d": d} for name, d in self._in(self.factors["d"].dtype).items()}

    def average(self, learned: Factors, ema: float) -> None:
        super().average(learned, ema)
        if self._joint:
            self.factors["d"].clamp_min_(self.floor)

    def _paired(self, named: Mapping[str, Tensor]) -> tuple[list[Tensor], Named]:
        """Returns d and x for the entries of this block, in the same order and dtype."""
        gradients = {name: named[name] for name in self._shapes if name in named}
        scales = {dtype: self._in(dtype) for dtype in {x.dtype for x in gradients.values()}}
        return [scales[x.dtype][name] for name, x in gradients.items()], gradients

    def _in(self, dtype: torch.dtype) -> Named:
        """Returns d by name: views of d in its own dtype, else a copy that is rounded once after each change."""
        d = self.factors["d"]
        version, views = self._views.get(dtype, (-1, {}))
        if version < 0 or (dtype != d.dtype and version != d._version):
            views = self.views(d.to(dtype))
            self._views[dtype] = d._version, views
        return views


class DiagonalLearner(Learner):
    """Heavy ball on d, dJ/dd = -g * c, with one vector of working memory for U g, c and the gradient in turn."""

    def __init__(self, block: Diagonal, gradient: Named, descent: HeavyBall) -> None:
        self._descent, self._groups, self._group_count = descent, block.groups, block.group_count
        self._d = block.factors["d"].clone()
        self._buffer, self._work = torch.zeros_like(self._d), torch.empty_like(self._d)
        self._named_d, self._named_work = block.views(self._d), block.views(self._work)
        cut = zip(self._named_work.values(), block.parts, strict=True)
        self._parts = [x for view, parts in cut for x in (view.chunk(parts) if parts > 1 else (view,))]
        self._gradient = {name: gradient[name] for name in self._named_d}

    def apply(self) -> Named:
        work = list(self._named_work.values())
        torch._foreach_copy_(work, list(self._gradient.values()))
        torch._foreach_mul_(work, list(self._named_d.values()))
        return self._named_work

    def descend(self, c: Named) -> None:
        work = list(self._named_work.values())
        torch._foreach_copy_(work, [c[name] for name in self._named_work])
        torch._foreach_mul_(work, list(self._gradient.values()))
        squared = torch.stack(torch._foreach_norm(self._parts)).square()
        by_group = squared.new_zeros(self._group_count).index_add_(0, self._groups, squared)
        torch._foreach_mul_(self._parts, list(self._descent.clip(by_group).neg_()[self._groups].unbind()))
        self._descent.move(self._d, self._buffer.mul_(self._descent.momentum).add_(self._work))

    def factors(self) -> Factors:
        return {"d": self._d}
