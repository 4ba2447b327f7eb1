"""LoLDU (arXiv 2410.13618): each weight is factored once, W = P L diag(D) U, and only diagonal entries are trained.

With L_r and U_r the first r columns and rows and z_0 = D[:r],

    W' = W + P L_r diag(sigma z - sigma_0 z_0) U_r

which is the paper's W - sigma_0 P L_r diag(z_0) U_r + sigma P L_r diag(z) U_r (equations 5 to 7) with
the base's weight unchanged: without the adapter the model is the base, bit for bit. Only z is saved;
the factors are computed again from the base, in float32 on its device.

Parameters are few but memory is not: L_r and U_r take r (m + n) numbers a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from peft import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from peft.utils import PeftType
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register

#: Bounds entries of U by 1 / FLOOR: a smaller pivot, relative to the largest entry of its row, is replaced
#: by this share of that entry, in D and in U, so that their product is unchanged.
FLOOR = 1e-3


@dataclass
class LolduConfig(PeftConfig):
    """Options of LoLDU.

    Args:
        target_modules: names of linear layers.
        exclude_modules: names of target layers that are left out.
        modules_to_save: layers that are trained themselves, such as a new classifier.
        r: trained diagonal entries, at most as many as a weight has.
        alpha: sigma = alpha / r, with the configured r.
        init: initial z. `lu`: D, so that the model is the base. uniform: within +-mean(D)/2; normal: with
            mean and deviation of D; mean: the mean of D; ones; zeros.
        train_scale: train sigma too, one number a layer.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    r: int = 768
    alpha: float = 768.0
    init: Literal["lu", "uniform", "normal", "mean", "ones", "zeros"] = "lu"
    train_scale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("LOLDU")
        if self.r < 1:
            raise ValueError(f"r must be a positive integer, not {self.r}")
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, not {self.init}")


class LolduLinear(TunerLayer):
    """Linear layer with weight [out, in]; adds P L_r diag(sigma z - sigma_0 z_0) U_r x."""

    adapter_layer_names = ("loldu_z", "loldu_scale")
    other_param_names = ("loldu_L", "loldu_U", "loldu_start", "loldu_sigma")
    loldu_z: nn.ParameterDict
    loldu_scale: nn.ParameterDict  # sigma, where it is trained

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.loldu_L = BufferDict(persistent=False)  # rows in the weight's order: P L_r [m, r]
        self.loldu_U = BufferDict(persistent=False)  # [r, n]
        self.loldu_start = BufferDict(persistent=False)  # z_0 [r]
        self.loldu_sigma: dict[str, float] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), also of packed weights."""
        base: Any = self.get_base_layer()
        return base.out_features, base.in_features

    def matrix(self) -> Tensor:
        """Return the base's weight [out, in], dequantised where it is quantised."""
        return self.get_base_weight()

    def add(self, adapter: str, config: LolduConfig) -> None:
        """Factor the weight and add an adapter, with z initialised by `config.init`."""
        r = min(config.r, *self.shape)
        lower, diagonal, upper = self._factors(r)
        self.loldu_L[adapter], self.loldu_U[adapter] = lower, upper
        self.loldu_start[adapter] = diagonal
        self.loldu_z[adapter] = nn.Parameter(INITS[config.init](diagonal))
        self.loldu_sigma[adapter] = config.alpha / config.r
        if config.train_scale:
            sigma = torch.full((1,), self.loldu_sigma[adapter], dtype=diagonal.dtype)
            self.loldu_scale[adapter] = nn.Parameter(sigma.to(diagonal.device))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output plus that of the change."""
        active = self.adapters_in_effect()
        out: Tensor = self.base_layer(x, *args, **kwargs)
        for adapter in active:
            upper = self.loldu_U[adapter]
            inner = nn.functional.linear(self._cast_input_dtype(x, upper.dtype), upper)
            inner = (inner * self.change(adapter)).to(upper.dtype)
            out = out + nn.functional.linear(inner, self.loldu_L[adapter]).to(out.dtype)
        return out

    def change(self, adapter: str) -> Tensor:
        """Return sigma z - sigma_0 z_0 [r], exactly zero before training."""
        start = self.loldu_sigma[adapter]
        sigma = self.loldu_scale[adapter] if adapter in self.loldu_scale else start
        return sigma * self.loldu_z[adapter] - start * self.loldu_start[adapter]

    def delta(self, adapter: str) -> Tensor:
        """Return P L_r diag(sigma z - sigma_0 z_0) U_r [out, in]."""
        return (self.loldu_L[adapter] * self.change(adapter)) @ self.loldu_U[adapter].float()

    def _factors(self, r: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return P L_r, D_r and U_r of the base's weight, in its dtype; without values on the meta device."""
        weight: Any = self.get_base_layer().weight
        rows, columns = self.shape
        if weight.device.type == "meta":
            lower, diagonal, upper = (
                weight.new_empty(rows, r),
                weight.new_empty(r),
                weight.new_empty(r, columns),
            )
            return lower, diagonal, upper
        matrix = self.matrix()
        with torch.no_grad():
            lower, diagonal, upper = ldu(matrix)
        dtype = matrix.dtype
        return lower[:, :r].to(dtype), diagonal[:r].to(dtype), upper[:r].to(dtype)


class LolduConv1D(LolduLinear):
    """GPT-2's linear: weight [in, out]."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.weight.shape[1], self.weight.shape[0]

    def matrix(self) -> Tensor:
        """Return the base's weight as [out, in]."""
        return self.get_base_weight().T

    def delta(self, adapter: str) -> Tensor:
        """Return the change as [in, out]."""
        return super().delta(adapter).T


class LolduModel(Tuner):
    """Trains the diagonals of linear layers' LDU factors."""

    prefix = "loldu_"
    tuner_layer_cls = LolduLinear
    layers: ClassVar[dict[type, type[TunerLayer]]] = {
        nn.Linear: LolduLinear,
        Conv1D: LolduConv1D,
    }


def ldu(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return P L [m, k], D [k] and U [k, n] in float32 with weight = P L diag(D) U; k = min(m, n).

    Partial pivoting; L is unit lower and U unit upper triangular, except for pivots that are tiny
    relative to their row and are bounded away from zero (`FLOOR`). P is applied to the rows of L by
    index and never formed.
    """
    packed, pivots, _ = torch.linalg.lu_factor_ex(
        weight.float()
    )  # does not raise where W is singular
    k = len(pivots)
    lower = packed[:, :k].tril(-1)
    lower.diagonal().fill_(1.0)
    raw = packed[:k].triu()
    pivot = raw.diagonal()
    least = FLOOR * raw.abs().amax(1)
    sign = torch.where(pivot < 0, -1.0, 1.0)
    diagonal = torch.where(pivot.abs() < least, sign * least, pivot)
    diagonal = torch.where(diagonal == 0, 1.0, diagonal)  # a row of zeros: any pivot gives zeros
    return lower[_row_order(pivots, len(weight))], diagonal, raw / diagonal[:, None]


def _row_order(pivots: Tensor, rows: int) -> Tensor:
    """Return the row of L for each row of the weight, from LAPACK's row exchanges, counted from 1."""
    order = list(range(rows))
    for here, there in enumerate(pivots.tolist()):
        order[here], order[there - 1] = order[there - 1], order[here]
    return torch.tensor(order, device=pivots.device).argsort()


def _draw_uniform(diagonal: Tensor) -> Tensor:
    half = diagonal.mean().abs() / 2
    return (2 * torch.rand_like(diagonal) - 1) * half


def _draw_normal(diagonal: Tensor) -> Tensor:
    return diagonal.mean() + diagonal.std(correction=0) * torch.randn_like(diagonal)


INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "lu": torch.clone,
    "uniform": _draw_uniform,
    "normal": _draw_normal,
    "mean": lambda diagonal: diagonal.mean().expand_as(diagonal).clone(),
    "ones": torch.ones_like,
    "zeros": torch.zeros_like,
}

register("loldu", LolduConfig, LolduModel)
