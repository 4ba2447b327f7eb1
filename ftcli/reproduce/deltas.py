"""Analysis of finished runs for measures of weight arithmetic: one run, and the runs of the same recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta
from ftcli.deltas.evaluator import RunEvaluator

VALIDATION, TEST = "validation", "test"
ROWS, TOKENS = 32, 64  # of the sampled text that stands for the pretraining data


@dataclass(frozen=True)
class RunAnalysis:
    """A finished run with its delta, and losses of its model with other weights."""

    folder: Path
    product: bool = False

    @cached_property
    def delta(self) -> Delta:
        """The change of weights that the run has trained."""
        return Delta.open(self.folder, product=self.product)

    @cached_property
    def base(self) -> Artefact:
        """The model that the run started from."""
        return Artefact.open(self.folder).base

    @cached_property
    def evaluator(self) -> RunEvaluator:
        """The evaluator on the data of the run."""
        return RunEvaluator(self.folder, self.delta.kind)

    def loss(self, delta: Delta, split: str = TEST) -> float:
        """Return the held-out loss of the base plus a delta, nats per token."""
        return self.evaluator.score(delta.apply(self.base), split)

    def loss_of(self, tensors: Mapping[str, Tensor], split: str = TEST) -> float:
        """Return the held-out loss of the model with these tensors, nats per token."""
        return self.evaluator.score(tensors, split)

    @cached_property
    def trained_loss(self) -> float:
        """Test loss of the trained run, nats per token."""
        return self.loss(self.delta)

    @cached_property
    def control_text(self) -> Any:
        """Text sampled from the pretrained model: token ids [32, 65] with the start token, the same for every run."""
        import torch

        self.evaluator.load(self.delta.scale(0.0).apply(self.base))
        start = torch.full((ROWS, 1), self.evaluator.run.tokenizer.bos_token_id)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            return self.evaluator.model.generate(
                start, do_sample=True, top_k=0, min_new_tokens=TOKENS, max_new_tokens=TOKENS
            )

    def control_loss(self, delta: Delta) -> float:
        """Return the loss of base plus delta on `control_text`, which stands for the pretraining data, nats per token."""
        import torch

        text = self.control_text
        self.evaluator.load(delta.apply(self.base))
        with torch.no_grad():
            logits = self.evaluator.model(
                input_ids=text, attention_mask=torch.ones_like(text)
            ).logits
        return float(
            torch.nn.functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), text[:, 1:].flatten()
            )
        )


@cache
def analyse_run(folder: Path, product: bool = False) -> RunAnalysis:
    """Return the analysis of the run in a folder; it is cached, so that claims share its results."""
    return RunAnalysis(folder, product)


def find_minimum(score: Callable[[float], float], values: Sequence[float]) -> float:
    """Return the value with the lowest score."""
    return min(values, key=score)


def read_name(folder: Path) -> tuple[str, str]:
    """Return variant and seed of a run of a recipe, from its name."""
    from ftcli.config import load

    name = str(load(folder / "config.yaml").config["run"]["name"])
    variant, _, seed = name.rpartition("-")
    return variant, seed


def find_sibling_runs(folder: Path) -> dict[tuple[str, str], Path]:
    """Return (variant, seed) -> folder of every finished run of the same recipe, by its present index."""
    from ftcli.jobs.trial import read_finished_result
    from ftcli.run.report import read_json

    index = read_json(folder.parent / "runs.json")
    runs = {name: folder.parent / address for name, address in index.items()}
    split = {name: name.rpartition("-")[::2] for name in runs}
    return {split[name]: run for name, run in runs.items() if read_finished_result(run)}


def find_partner_run(folder: Path, variant: str) -> Path:
    """Return the run of another variant with the same seed.

    Raises:
        MetricUnavailable: there is no such finished run, as when only some claims are judged.
    """
    from ftcli.reproduce.measure import MetricUnavailable

    partner = find_sibling_runs(folder).get((variant, read_name(folder)[1]))
    if partner is None:
        raise MetricUnavailable(
            f"there is no finished run of {variant} beside this one; judge all claims"
        )
    return partner
