"""Quantised side tuning (arXiv 2401.07159): no gradient passes through the base, whose hidden states may be cached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from ftcli.config.classpath import ClassPath
from ftcli.core.callback import State
from ftcli.methods.peft import Peft

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.papers.qst.states import HiddenStates


class Qst(Peft):
    """A narrow network beside a frozen base, quantised or not; further keys are `QstConfig`'s.

    The base is the same in every epoch, so that its hidden states can be cached: a step then computes
    the side network alone. The cache holds blocks * tokens * width numbers.

    Args:
        config_class: ftcli.papers.qst.tuner.QstConfig or a subclass of it.
        autocast_adapter_dtype: the side network in float32 also where the base has half precision.
        cache: where hidden states of the base are cached between epochs: none, memory (of the
            machine, not of its GPU), or disk, where later runs of the same base reuse them.
        cache_gb: size limit of the cache in 1e9 bytes; further documents are computed each time.
        cache_dir: folder of cache=disk; null: beside the token cache.
    """

    mergeable: ClassVar[bool] = False
    quantisable: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "blocks * (d * k + k * d/r + 3 * d/r + a block of width d/r) + d/r + d/r * d + 2 * d"
    )

    def __init__(
        self,
        config_class: ClassPath = "ftcli.papers.qst.tuner.QstConfig",
        autocast_adapter_dtype: bool = True,
        cache: Literal["none", "memory", "disk"] = "none",
        cache_gb: float = 4.0,
        cache_dir: str | None = None,
        **options: Any,
    ) -> None:
        options = {"target_modules": None, **options}
        super().__init__(config_class, True, autocast_adapter_dtype, **options)
        self.cache, self.cache_gb, self.cache_dir = cache, cache_gb, cache_dir

    def setup(self, run: Run) -> None:
        """Attach the cache of hidden states, unless `cache` is none."""
        from ftcli.papers.qst.tuner import side_layer

        if self.cache != "none":
            layer = side_layer(run.model)
            layer.states = self._build_cache(layer.base_layer, run)

    def on_train_end(self, state: State) -> None:
        """Detach the cache of hidden states."""
        from ftcli.papers.qst.tuner import side_layer

        side_layer(state.model).states = None

    def _build_cache(self, backbone: nn.Module, run: Run) -> HiddenStates:
        from ftcli.data.cache import token_folder
        from ftcli.papers.qst.states import HiddenStates, Store, hash_backbone

        limit = self.cache_gb * 1e9
        if self.cache == "memory":
            return HiddenStates(Store(limit))
        base = hash_backbone(backbone)
        root = token_folder(self.cache_dir or getattr(run.data, "cache_dir", None))
        return HiddenStates(Store(limit, root / "hidden_states" / base), base)
