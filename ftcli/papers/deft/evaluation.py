"""How many neurons of the MLPs are active on rows the model did not train on (DEFT, arXiv 2402.01911)."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.core.hooks import Probes
from ftcli.models.decoding import judging
from ftcli.papers.deft.activations import RealTokens, is_encoder_decoder, mlp_activations


@dataclass
class ActivationDensity:
    """Share of activations that count as active, over real tokens and neurons, mean over layers.

    `density` counts those that are not exactly 0. Only ReLU and its like give exact zeros: SiLU never
    does, and GELU where its float32 erf saturates. `density_<t>` counts |a| >= t, so that 1 minus it
    is the share below t. An encoder-decoder has each also by side (`density_encoder`), and the mean of
    both sides.
    """

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int | None = None  # rows (or packed bins) a forward pass; null: the trainer's
    limit: int | None = None  # stop after this many rows; null reads all
    thresholds: list[float] = field(default_factory=lambda: [1e-3])  # the t of density_<t>
    tap: str | None = None  # the end of the names of the activation modules; null finds them
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """The densities.

        Raises:
            UserError: the model has no activation modules, or the split holds nothing.
        """
        taps = mlp_activations(run.model, self.tap)
        roles = {tap.name: tap.role for tap in taps}
        totals: dict[str, Tensor] = {}
        tokens = RealTokens({})

        def read(name: str, values: Tensor) -> Tensor:
            return self._counts(values, tokens.mask(values, roles[name]))

        probes = Probes({tap.name: tap.module for tap in taps}, read)
        with judging(run) as model, probes:
            for batch in self._batches(run):
                tokens = RealTokens(batch, is_encoder_decoder(model))
                run.objective(model, batch)
                for name, counts in probes.take().items():
                    totals[name] = totals.get(name, 0.0) + torch.stack(counts).sum(0)
        if not totals:
            raise UserError(f"the split '{self.split}' has no token to look at.", where="eval")
        layers = {name: _shares(total) for name, total in totals.items()}
        return self._scores(layers, roles if is_encoder_decoder(run.model) else {})

    def _batches(self, run: Any) -> Any:
        size = self.batch_size or run.trainer.batch_size
        rows = 0
        loader = run.data.loader(self.split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        for batch in loader:
            yield batch
            rows += len(batch["rows"])
            if self.limit is not None and rows >= self.limit:
                return

    def _counts(self, values: Tensor, real: Tensor) -> Tensor:
        """[active by each measure .., all], float64."""
        size = values.abs()
        of = real[..., None]
        active = [((size > 0) & of).sum(), *(((size >= t) & of).sum() for t in self.thresholds)]
        return torch.stack([*active, real.sum() * values.shape[-1]]).double()

    def _scores(self, layers: dict[str, list[float]], roles: dict[str, str]) -> dict[str, float]:
        """Means over layers; where there are two sides, over each and then over both."""
        names = ["density", *(f"density_{t:g}" for t in self.thresholds)]
        sides: dict[str, list[list[float]]] = {}
        for name, shares in layers.items():
            sides.setdefault(roles.get(name, ""), []).append(shares)
        means = {
            side: [fmean(column) for column in zip(*rows, strict=True)]
            for side, rows in sides.items()
        }
        scores = {n: fmean(of[i] for of in means.values()) for i, n in enumerate(names)}
        for side in filter(None, means):
            scores |= {f"{n}_{side}": value for n, value in zip(names, means[side], strict=True)}
        return scores


def _shares(total: Tensor) -> list[float]:
    found: list[float] = (total[:-1] / total[-1]).tolist()
    return found
