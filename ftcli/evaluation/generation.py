"""Evaluator: metrics of the text that a model generates for the prompts of a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ftcli.core.errors import UserError
from ftcli.evaluation.metrics import find_metric
from ftcli.models.decoding import evaluation_mode, generate_answers


@dataclass
class Generation:
    """Generates an answer to every prompt of a split and compares it with the references.

    Prompts, answers and references are written to `samples/<step>-<name>.jsonl` of the run directory.
    """

    split: str = "test"  # which rows: test, validation or train
    metrics: list[str] = field(default_factory=lambda: ["bleu", "chrf", "rougeL"])  # see docs
    max_new_tokens: int = 128  # longer answers are cut here
    batch_size: int = 64  # prompts decoded together
    num_beams: int = 1  # 1 is greedy
    length_penalty: float = 1.0  # of beam search: scores are divided by length to this power
    limit: int | None = None  # only this many prompts, spread evenly over the split
    name: str = "generation"  # name of the file of samples
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __post_init__(self) -> None:
        self._metrics = [find_metric(name) for name in self.metrics]

    def __call__(self, run: Any) -> dict[str, float]:
        """Return the scores of all metrics; one that cannot be computed is absent.

        Raises:
            UserError: the split does not exist or has no prompt.
        """
        prompts = select_evenly(run.data.prompts(self.split, run.tokenizer), self.limit)
        if not prompts:
            raise UserError(
                f"the split '{self.split}' has no prompt to answer.",
                where="eval",
                fix="set data.test to a file or split with references, or eval=loss",
            )
        with evaluation_mode(run) as model:
            predictions = generate_answers(
                model,
                run.tokenizer,
                [prompt.input_ids for prompt in prompts],
                self.max_new_tokens,
                self.batch_size,
                num_beams=self.num_beams,
                length_penalty=self.length_penalty,
            )
        self._write_samples(run, prompts, predictions)
        return self._score(predictions, prompts)

    def _score(self, predictions: Sequence[str], prompts: Sequence[Any]) -> dict[str, float]:
        references = [list(prompt.references) for prompt in prompts]
        rows = [prompt.row for prompt in prompts]
        scores: dict[str, float] = {}
        for metric in self._metrics:
            scores |= metric(predictions, references, rows)
        return scores

    def _write_samples(self, run: Any, prompts: Sequence[Any], predictions: Sequence[str]) -> None:
        if run.dir is None:
            return
        from ftcli.core.atomic import write_text

        samples = [
            {
                "prompt": run.tokenizer.decode(prompt.input_ids, skip_special_tokens=True),
                "prediction": prediction,
                "references": list(prompt.references),
            }
            for prompt, prediction in zip(prompts, predictions, strict=True)
        ]
        path = run.dir.path / "samples" / f"{run.evaluated_step}-{self.name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples))


def select_evenly(rows: Sequence[Any], limit: int | None) -> list[Any]:
    """Return `limit` evenly spaced rows, because files are often sorted; all rows without a limit."""
    rows = list(rows)
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]
