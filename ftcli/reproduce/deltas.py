"""What measures of weight arithmetic share: a run opened once, and the runs that stand beside it."""

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
ROWS, TOKENS = 32, 64  # of the text that stands for what a model was pretrained on


@dataclass(frozen=True)
class RunAnalysis:
    """A finished run, its delta, and scores of other deltas in its place."""

    folder: Path
    product: bool = False

    @cached_property
    def delta(self) -> Delta:
        """What it has trained."""
        return Delta.of(self.folder, product=self.product)

    @cached_property
    def base(self) -> Artefact:
        """What it began from."""
        return Artefact.open(self.folder).base

    @cached_property
    def evaluator(self) -> RunEvaluator:
        """Its own data as a judge."""
        return RunEvaluator(self.folder, self.delta.kind)

    def loss(self, delta: Delta, split: str = TEST) -> float:
        """Held-out loss of base and delta, nats a token."""
        return self.evaluator.score(delta.apply(self.base), split)

    def loss_of(self, tensors: Mapping[str, Tensor], split: str = TEST) -> float:
        """Held-out loss of any tensors."""
        return self.evaluator.score(tensors, split)

    @cached_property
    def trained_loss(self) -> float:
        """Test loss of the run as it is."""
        return self.loss(self.delta)

    @cached_property
    def control_text(self) -> Any:
        """Text that the pretrained model writes: token ids [32, 64], the same for every run."""
        import torch

        self.evaluator.load(self.delta.scale(0.0).apply(self.base))
        start = torch.full((ROWS, 1), self.evaluator.run.tokenizer.bos_token_id)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            return self.evaluator.model.generate(
                start, do_sample=True, top_k=0, min_new_tokens=TOKENS, max_new_tokens=TOKENS
            )

    def control_loss(self, delta: Delta) -> float:
        """Loss on that text: what the pretraining data, which do not ship, would show of forgetting."""
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
    """The run in a folder; claims about one run share what was computed of it."""
    return RunAnalysis(folder, product)


def find_minimum(score: Callable[[float], float], values: Sequence[float]) -> float:
    """The value with the lowest score."""
    return min(values, key=score)


def read_name(folder: Path) -> tuple[str, str]:
    """Variant and seed of a run of a recipe."""
    from ftcli.config import load

    name = str(load(folder / "config.yaml").config["run"]["name"])
    variant, _, seed = name.rpartition("-")
    return variant, seed


def find_sibling_runs(folder: Path) -> dict[tuple[str, str], Path]:
    """(variant, seed) -> finished run in the same reproduction, of the recipe as it was run last."""
    from ftcli.jobs.trial import read_finished_result
    from ftcli.run.report import read_json

    index = read_json(folder.parent / "runs.json")
    runs = {name: folder.parent / address for name, address in index.items()}
    split = {name: name.rpartition("-")[::2] for name in runs}
    return {split[name]: run for name, run in runs.items() if read_finished_result(run)}


def find_partner_run(folder: Path, variant: str) -> Path:
    """The run of another variant with the same seed.

    Raises:
        MetricUnavailable: there is none: only some claims are judged.
    """
    from ftcli.reproduce.measure import MetricUnavailable

    partner = find_sibling_runs(folder).get((variant, read_name(folder)[1]))
    if partner is None:
        raise MetricUnavailable(
            f"there is no finished run of {variant} beside this one; judge all claims"
        )
    return partner
