"""Evaluator: accuracy of classification by label words: the most probable word against the right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.nn.functional import cross_entropy

from ftcli.models.decoding import evaluation_mode
from ftcli.objectives.candidates import score_candidates, token_ids


@dataclass
class LabelWords:
    """Accuracy over the label words, whatever objective the run was trained with."""

    split: str = "test"  # which rows: test, validation or train
    words: list[str] | None = None  # with their leading space; null: the completions of the rows
    batch_size: int = 64  # rows a forward pass
    limit: int | None = None  # stop after this many rows; null reads all
    periodic: bool = True  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Return `accuracy` in percent, and `loss`: cross-entropy over the label words in nats a row.

        Raises:
            UserError: the split does not exist, or an answer in it is not a label word.
        """
        candidates = token_ids(self.words, run)
        loader = run.data.loader(
            self.split, run.tokenizer, batch_size=self.batch_size, seed=0, shuffle=False
        )
        hits = loss = 0.0
        rows = 0
        with evaluation_mode(run) as model:
            for batch in loader:
                scored = score_candidates(model, batch, candidates)
                hits += (scored.logits.argmax(1) == scored.targets).sum().item()
                loss += cross_entropy(scored.logits, scored.targets, reduction="sum").item()
                rows += len(scored.targets)
                if self.limit and rows >= self.limit:
                    break
        return {"accuracy": 100 * hits / rows, "loss": loss / rows}
