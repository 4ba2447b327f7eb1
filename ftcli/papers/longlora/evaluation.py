"""Evaluator of loss by context length, with sliding windows (LongLoRA, arXiv 2309.12307, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.models.decoding import evaluation_mode

if TYPE_CHECKING:
    from ftcli.core.run import Run

IGNORED = -100


@dataclass
class LossByLength:
    """Mean loss of held-out tokens that see at most so many tokens before them.

    Windows of n tokens move by `stride`; of each but the first only the last `stride` tokens count, so that
    every token counts once and has at least n - stride tokens before it wherever the row has them. In rows of
    `JoinedText` with `returns`, `again_at_<n>.loss` is that of the tokens of texts that stood there before.
    """

    lengths: list[int] = field(default_factory=lambda: [256, 512, 1024])  # tokens of a window, n
    stride: int = 64  # tokens by which windows move
    split: str = "validation"  # which rows: validation, test or train
    limit: int | None = None  # stop after this many rows; null reads all
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Run) -> dict[str, float]:
        """Return `at_<n>.loss` in nats a token, and `again_at_<n>.loss` where texts return.

        Raises:
            UserError: the split has no learned token.
        """
        tokenized = run.data.prepare(self.split, run.tokenizer)
        again = getattr(tokenized, "again", None)
        rows = range(min(len(tokenized), self.limit or len(tokenized)))
        scores: dict[str, float] = {}
        with evaluation_mode(run) as model:
            for length in self.lengths:
                sums = torch.zeros(2, 2, dtype=torch.float64)  # new and returned: losses, tokens
                for row in rows:
                    here = slice(int(tokenized.offsets[row]), int(tokenized.offsets[row + 1]))
                    marked = torch.zeros(here.stop - here.start, dtype=torch.bool)
                    if again is not None:
                        marked = torch.from_numpy(again[here].copy())
                    document = {k: torch.as_tensor(v).long() for k, v in tokenized.row(row).items()}
                    sums += self._measure_row(run, model, document, marked, length)
                scores |= _name_scores(sums, length)
        if not scores:
            raise UserError(f"the split '{self.split}' has no learned token.", where="eval.length")
        return scores

    def _measure_row(
        self, run: Run, model: Any, document: dict[str, Tensor], again: Tensor, length: int
    ) -> Tensor:
        """Return sums of losses and numbers of tokens [2, 2], for new and for returned tokens of a row."""
        sums = torch.zeros(2, 2, dtype=torch.float64)
        for window, counted in slide_windows(len(document["labels"]), length, self.stride):
            ids, labels = document["input_ids"][window], document["labels"][window].clone()
            labels[:counted] = IGNORED
            labels[0] = IGNORED
            if not (labels != IGNORED).any():
                continue
            batch = {
                "input_ids": ids[None],
                "labels": labels[None],
                "position_ids": torch.arange(len(ids))[None],
                "attention_mask": torch.ones_like(ids)[None],
            }
            losses = run.objective(model, batch).values.double().cpu()
            marked = again[window][labels != IGNORED]
            for i, chosen in enumerate((~marked, marked)):
                sums[i] += torch.stack([losses[chosen].sum(), chosen.sum().double()])
        return sums


def slide_windows(tokens: int, length: int, stride: int) -> Iterator[tuple[slice, int]]:
    """Yield windows over a row, and how many tokens at the beginning of each do not count."""
    end = min(length, tokens)
    yield slice(0, end), 0
    while end < tokens:
        last, end = end, min(end + stride, tokens)
        start = max(0, end - length)
        yield slice(start, end), last - start


def _name_scores(sums: Tensor, length: int) -> dict[str, float]:
    scores: dict[str, float] = {}
    for name, values in (("at", sums.sum(0)), ("again_at", sums[1])):
        total, count = values.tolist()
        if count:
            scores[f"{name}_{length}.loss"] = total / count
    return scores
