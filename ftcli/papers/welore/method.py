"""WeLore as a method: the tuner, and what became of the ranks said and recorded."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from torch import nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.base import quantisation_of, suggest_plain_weights
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.papers.welore.layer import WeloreLinear

_log = logging.getLogger("ftcli.methods")

DENSE = "WeLore: its singular values fall too slowly for method.min_ratio"


class WeLore(Peft):
    """Replace matrices of low effective rank by two factors and train these; further keys are WeloreConfig's.

    Norms, embeddings and the head are frozen (in the published code norms are trained too, since nothing
    freezes them). Merging multiplies the factors, so that the model is as large as the base again.

    Args:
        config_class: WeloreConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: factors in float32 also where the base has half precision.
    """

    quantisable: ClassVar[bool] = False
    formula = "sum of k * (in + out) over the factored targets, k by their singular values"

    def __init__(
        self,
        config_class: ClassPath = "ftcli.papers.welore.layer.WeloreConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)

    @property
    def keeps_base(self) -> bool:
        """False: the factors take the place of the base's weights."""
        return False

    def prepare(self, model: Any) -> nn.Module:
        """Factor or keep every target, freeze what is not trained, and say how many ranks were removed.

        Raises:
            UserError: the base is quantised, an option does not fit it, or nothing would be trained.
        """
        if quantisation_of(model) is not None:
            raise UserError(
                "WeLore decomposes floating-point weights, and this base is quantised.",
                where="model.quantization",
                fix=suggest_plain_weights(model),
            )
        shapes = {n: m.weight.shape for n, m in model.named_modules() if _has_matrix(m)}
        wrapped: Any = super().prepare(model)
        ranks = wrapped.peft_config[ADAPTER].ranks
        sizes = {name: min(shapes[name]) for name in ranks}
        dense = [name for name, rank in ranks.items() if rank == sizes[name]]
        if wrapped.peft_config[ADAPTER].train == "factored":
            self.left_out = {**self.left_out, **{f"{name}.weight": DENSE for name in dense}}
        if not any(p.is_meta for p in wrapped.parameters()):  # plans know no ranks
            removed = 1 - sum(ranks.values()) / sum(sizes.values())
            _log.warning(
                f"WeLore factors {len(ranks) - len(dense)} of {len(ranks)} matrices, which removes "
                f"{removed:.1%} of all ranks"
            )
        return wrapped


def _has_matrix(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() == 2


def welore_layers(model: nn.Module) -> dict[str, WeloreLinear]:
    """Return name in the wrapped model -> layer."""
    return {name: m for name, m in model.named_modules() if isinstance(m, WeloreLinear)}
