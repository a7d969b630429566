"""What changes in an optimizer from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from llqr_sam.methods.step.passes import Gradients
from llqr_sam.methods.step.trained import Perturbed, Trained


@dataclass
class Progress:
    """The number of steps, and what one step leaves to the next.

    It is one object, so that a wrapper with a copy of the optimizer's attributes shares it (Lightning makes one).
    """

    steps: int = 0
    placeholders: list[str] = field(default_factory=list)  # parts whose tensors are there only to be loaded into
    between: Perturbed | None = None  # the two passes, while the weights are perturbed
    statistics: dict[Tensor, Tensor] = field(default_factory=dict)  # memory for copies of batch-norm's
    searched: int = 0  # compilations of the process when no batch-norm layer was hidden
    gradients: Gradients = field(default_factory=Gradients)
    _known: Trained | None = None

    def trained(self, base: Optimizer, model: nn.Module | None) -> Trained:
        """Returns the parameters as they are now; a model may have been given others since, or been cast."""
        known = self._known
        if known is not None and known.still(base.param_groups):
            return known
        self._known = Trained(base.param_groups, model)
        self.gradients.of(self._known.parameters)
        if known is not None and any(known.kinds.get(p, kind) != kind for p, kind in self._known.kinds.items()):
            self.gradients.clear()  # what the last step left was cast too, and is another tensor now
            base.load_state_dict(base.state_dict())  # which casts and moves it to the parameters
        return self._known

    def kept(self) -> Progress:
        """Returns what a copy of the optimizer takes along: no memory, which belongs to these parameters."""
        return Progress(self.steps, list(self.placeholders))
