"""A metric of generated text as an objective without a gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.data.tokens import IGNORED
from ftcli.evaluation import metrics as known
from ftcli.models.decoding import decode_answer, find_stop_ids, generate_answers
from ftcli.objectives.base import Losses, Objective
from ftcli.objectives.causal_lm import NextTokenPrediction, find_supervised

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Generated(Objective):
    """1 minus a metric of greedily generated answers to the prompts of the batch, one value a row.

    MeZO trains on the F1 of answers in this way (arXiv 2305.17333, section 3.3).
    """

    differentiable: ClassVar[bool] = False

    metric: str = (
        "f1"  # a module of ftcli/evaluation/metrics with a score from 0 to 100: exact_match, rougeL
    )
    max_new_tokens: int = 32  # an answer that is longer is cut here
    tokenizer: Any = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self._metric = known.find_metric(self.metric)

    def setup(self, run: Run) -> None:
        """Store the tokenizer, which decodes the answers."""
        self.tokenizer = run.tokenizer

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [n], one a row, in [0, 1]; metric: the mean of the rows' scores."""
        if self.tokenizer is None:
            raise UserError("Generated has not been set up with a run.", "objective")
        bare: Any = getattr(model, "module", model)
        prompts, references = self._split_prompts(batch, bare)
        texts = generate_answers(
            bare, self.tokenizer, prompts, self.max_new_tokens, max(len(prompts), 1)
        )
        scores = [
            self._score(text, reference) for text, reference in zip(texts, references, strict=True)
        ]
        values = 1 - torch.tensor(scores, device=bare.device) / 100
        mean = 100 * (1 - values.mean())
        return Losses(values, torch.arange(len(values), device=bare.device), {self.metric: mean})

    def layout_check_objective(self) -> Objective:
        """Return next-token prediction: the prompts are rows of text, and answers are not measured."""
        return NextTokenPrediction()

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Return the number of rows twice: each is one value and one sequence."""
        rows = len(find_supervised(batch)[2].unique_consecutive())
        return rows, rows

    def _split_prompts(
        self, batch: dict[str, Any], model: Any
    ) -> tuple[list[list[int]], list[str]]:
        """Return the tokens before each row's answer, and the answers as text."""
        stops = find_stop_ids(self.tokenizer, model)
        prompts, references = [], []
        for ids, labels in documents(batch):
            learned = (labels != IGNORED).nonzero().flatten()
            if len(learned):
                prompts.append(ids[: int(learned[0])].tolist())
                references.append(decode_answer(ids[learned].tolist(), stops, self.tokenizer))
        return prompts, references

    def _score(self, text: str, reference: str) -> float:
        return float(next(iter(self._metric([text], [[reference]], [{}]).values())))


def documents(batch: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Return token ids and labels of each document of a packed or a padded batch."""
    if "lengths" in batch:
        sizes = batch["lengths"].tolist()
        parts = (batch["input_ids"][0].split(sizes), batch["labels"][0].split(sizes))
        return list(zip(*parts, strict=True))
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = zip(batch["input_ids"], batch["labels"], lengths, strict=True)
    return [(ids[:n], labels[:n]) for ids, labels, n in rows]
