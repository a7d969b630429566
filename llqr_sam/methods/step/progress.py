"""What changes in an optimizer from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from llqr_sam.methods.step.passes import Gradients
from llqr_sam.methods.step.trained import Perturbed, Trained


@dataclass
class Progress:
    """One object, since a framework may wrap an optimizer in another that copies its attributes (Lightning does)."""

    steps: int = 0
    placeholders: list[str] = field(default_factory=list)  # parts whose tensors are there only to be loaded into
    between: Perturbed | None = None  # the two passes, while the weights are perturbed
    statistics: dict[Tensor, Tensor] = field(default_factory=dict)  # memory for copies of batch-norm's
    gradients: Gradients = field(default_factory=lambda: Gradients([]))
    _known: Trained | None = None

    def trained(self, base: Optimizer, model: nn.Module | None) -> Trained:
        """Returns the parameters as they are now; a model may have been given others since, or been cast."""
        known = self._known
        if known is not None and known.still(base.param_groups):
            return known
        self._known = Trained(base.param_groups, model)
        self.gradients = Gradients(self._known.parameters)
        if known is not None and known.kinds != self._known.kinds:
            base.load_state_dict(base.state_dict())  # which casts and moves it to the parameters
        return self._known

    def kept(self) -> Progress:
        """Returns what a copy of the optimizer takes along: no memory, which belongs to these parameters."""
        return Progress(self.steps, list(self.placeholders))
