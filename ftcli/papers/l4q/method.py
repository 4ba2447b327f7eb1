"""L4Q as a method: the tuner, the two stages of the paper's first version, and the export to integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.base import quantisation_of, suggest_plain_weights
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.papers.l4q.layer import L4QLinear

if TYPE_CHECKING:
    from ftcli.core.callback import State


class L4Q(Peft):
    """Train LoRA factors, scales and offsets of a weight that is rounded after the LoRA product was added.

    The base stays in 16 or 32 bits while it trains; what is deployed is `export_integers` or, in the
    base's own dtype, the merged model. Further keys are L4QConfig's.

    Args:
        warmup_steps: steps with LoRA beside the rounded base and frozen scales, before LoRA is rounded
            with it (two stages, as told of the paper's first version); 0: joint training from the start.
        config_class: L4QConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: has no effect; what is trained is always float32.
    """

    quantisable: ClassVar[bool] = False
    formula = "r * (in + out) + 2 * in * out / group_size summed over the targets"

    def __init__(
        self,
        warmup_steps: int = 0,
        config_class: ClassPath = "ftcli.papers.l4q.layer.L4QConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, True, **options)
        self.warmup_steps = warmup_steps

    def prepare(self, model: Any) -> nn.Module:
        """Add factors, scales and offsets to the targets and freeze everything else.

        Raises:
            UserError: the base is quantised already, or an option does not fit it.
        """
        if quantisation_of(model) is not None:
            raise UserError(
                "L4Q rounds floating-point weights by itself, and this base is quantised already.",
                where="model.quantization",
                fix=suggest_plain_weights(model),
            )
        return super().prepare(model)

    def before_step(self, state: State) -> None:
        """Choose the stage of the step."""
        warming_up = state.step < self.warmup_steps
        for layer in l4q_layers(state.model).values():
            layer.warming_up = warming_up


def l4q_layers(model: nn.Module) -> dict[str, L4QLinear]:
    """Return name in the wrapped model -> layer."""
    return {name: m for name, m in model.named_modules() if isinstance(m, L4QLinear)}


def export_integers(model: Any, file: str | Path, adapter: str = ADAPTER) -> dict[str, Tensor]:
    """Write the trained model as packed integers, scales and offsets, and its other weights as they are.

    The file alone is the model: of a layer `name` it has `name.codes`, `name.scale`, `name.offset` and,
    if there is one, `name.bias`; W0, A and B are not in it. Return the tensors that were written.
    """
    from safetensors.torch import save_file

    base, tensors = model.get_base_model(), dict[str, Tensor]()
    layers = l4q_layers(base)
    for name, layer in layers.items():
        tensors |= {f"{name}.{key}": t.contiguous() for key, t in layer.export(adapter).items()}
    inside = tuple(f"{name}." for name in layers)
    tied = set(getattr(base, "all_tied_weights_keys", None) or ())
    for name, tensor in base.state_dict().items():
        if not name.startswith(inside) and name not in tied:
            tensors[name] = tensor.detach().contiguous()
    config = model.peft_config[adapter]
    metadata = {"bits": str(config.bits), "group_size": str(config.group_size)}
    partial = Path(f"{file}.partial")
    save_file(tensors, partial, metadata)
    partial.replace(file)
    return tensors
