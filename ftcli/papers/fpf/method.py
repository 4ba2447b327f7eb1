"""Full finetuning whose checkpoints hold the running statistics of BatchNorm as well."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ftcli.methods.full import Full


class FullWithStatistics(Full):
    """Train the model's own weights, and save running means and variances beside them.

    Statistics are no parameters, and yet training moves them: without them a resumed or reloaded
    model with BatchNorm is another one. The arguments are those of `Full`.
    """

    def get_trained_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return every trained parameter and every buffer that the model saves, by name."""
        saved = model.state_dict().keys()
        buffers = {name: b.detach() for name, b in model.named_buffers() if name in saved}
        return super().get_trained_tensors(model) | buffers

    def describe(self) -> dict[str, Any]:
        """Return the method's name and the patterns."""
        return super().describe() | {"method": "full_with_statistics"}
