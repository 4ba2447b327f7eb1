"""Evaluator of the share of active neurons in the MLPs on held-out rows (DEFT, arXiv 2402.01911)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.core.hooks import Probes
from ftcli.models.decoding import evaluation_mode
from ftcli.papers.deft.activations import RealTokens, is_encoder_decoder, mlp_activations

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class ActivationDensity:
    """Share of active activations over real tokens and neurons, mean over layers.

    `density` counts those that are not exactly 0. Activations such as ReLU give exact zeros, SiLU never
    does, and GELU only where its float32 erf saturates. `density_<t>` counts |a| >= t, so that 1 minus
    it is the share below t. For an encoder-decoder each score is also given by side
    (`density_encoder`), and `density` is the mean of both sides.
    """

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int | None = None  # rows (or packed bins) a forward pass; null: the trainer's
    limit: int | None = None  # stop after this many rows; null reads all
    thresholds: list[float] = field(default_factory=lambda: [1e-3])  # the t of density_<t>
    tap: str | None = None  # end of the activation modules' names; null: found by class
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Run) -> dict[str, float]:
        """Return the densities by name.

        Raises:
            UserError: the model has no activation modules, or the split is empty.
        """
        taps = mlp_activations(run.model, self.tap)
        roles = {tap.name: tap.role for tap in taps}
        totals: dict[str, Tensor] = {}
        tokens = RealTokens({})

        def read(name: str, values: Tensor) -> Tensor:
            return self._count_active(values, tokens.mask(values, roles[name]))

        probes = Probes({tap.name: tap.module for tap in taps}, read)
        with evaluation_mode(run) as model, probes:
            for batch in self._iterate_batches(run):
                tokens = RealTokens(batch, is_encoder_decoder(model))
                run.objective(model, batch)
                for name, counts in probes.take().items():
                    totals[name] = totals.get(name, 0.0) + torch.stack(counts).sum(0)
        if not totals:
            raise UserError(f"the split '{self.split}' has no token.", where="eval")
        layers = {name: _compute_shares(total) for name, total in totals.items()}
        return self._average_layers(layers, roles if is_encoder_decoder(run.model) else {})

    def _iterate_batches(self, run: Run) -> Iterator[dict[str, Any]]:
        size = self.batch_size or run.trainer.batch_size
        rows = 0
        loader = run.data.loader(self.split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        for batch in loader:
            yield batch
            rows += len(batch["indices"])
            if self.limit is not None and rows >= self.limit:
                return

    def _count_active(self, values: Tensor, real: Tensor) -> Tensor:
        """Return counts [not 0, at or above each threshold .., all], float64."""
        size = values.abs()
        mask = real[..., None]
        active = [((size > 0) & mask).sum(), *(((size >= t) & mask).sum() for t in self.thresholds)]
        return torch.stack([*active, real.sum() * values.shape[-1]]).double()

    def _average_layers(
        self, layers: dict[str, list[float]], roles: dict[str, str]
    ) -> dict[str, float]:
        """Return means over layers; with an encoder and a decoder, over each and then over both."""
        names = ["density", *(f"density_{t:g}" for t in self.thresholds)]
        sides: dict[str, list[list[float]]] = {}
        for name, shares in layers.items():
            sides.setdefault(roles.get(name, ""), []).append(shares)
        means = {
            side: [fmean(column) for column in zip(*rows, strict=True)]
            for side, rows in sides.items()
        }
        scores = {n: fmean(shares[i] for shares in means.values()) for i, n in enumerate(names)}
        for side in filter(None, means):
            scores |= {f"{n}_{side}": value for n, value in zip(names, means[side], strict=True)}
        return scores


def _compute_shares(total: Tensor) -> list[float]:
    shares: list[float] = (total[:-1] / total[-1]).tolist()
    return shares
