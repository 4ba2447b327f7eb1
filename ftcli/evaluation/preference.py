"""Evaluator: whether a model prefers the chosen answers of held-out pairs to the rejected ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from ftcli.models.decoding import evaluation_mode
from ftcli.objectives.dpo import DPO
from ftcli.objectives.preference import reward_metrics


@dataclass
class Preference:
    """Implicit rewards beta * (log pi - log pi_ref) of held-out pairs, for any run on preference rows.

    The reference is the model before the run. A run trained on pairs also gets its `loss`.
    """

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int | None = None  # pairs a forward pass; null: the trainer's
    limit: int | None = None  # stop after this many pairs; null reads all
    beta: float | None = None  # of the rewards; null: the objective's, else 0.1
    periodic: bool = True  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Return means over pairs.

        `rewards/chosen`, `rewards/rejected`, `rewards/margin`; `rewards/accuracy`, the share whose
        chosen answer has the strictly higher reward; `likelier`, the share whose chosen answer is
        more probable under the model, whatever the reference.

        Raises:
            UserError: the split does not exist or is empty, or its rows are not pairs.
        """
        objective, trained = self._objective(run)
        data = run.data if run.data.pairs else replace(run.data, pairs=True)
        size = self.batch_size or run.trainer.batch_size
        loader = data.loader(self.split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        totals: Counter[str] = Counter()
        pairs = 0
        with evaluation_mode(run) as model:
            for batch in loader:
                if trained and objective.precompute:
                    batch = objective.with_reference(batch, self.split)
                scores = self._scores(objective, model, batch, trained)
                totals.update({name: value * batch["pairs"] for name, value in scores.items()})
                pairs += batch["pairs"]
                if self.limit is not None and pairs >= self.limit:
                    break
        return {name: total / pairs for name, total in totals.items()}

    def _objective(self, run: Any) -> tuple[DPO, bool]:
        """Return the objective that compares the answers, and whether the run was trained with it."""
        objective = run.objective
        if isinstance(objective, DPO):
            if objective.scores is None:
                objective.setup(run)
            return objective, True
        objective = DPO(beta=self.beta or 0.1, dropout=True)
        objective.setup(run)
        return objective, False

    def _scores(
        self, objective: DPO, model: Any, batch: dict[str, Any], trained: bool
    ) -> dict[str, float]:
        compared, weights = objective.compare(model, batch)
        scores = reward_metrics(compared, self.beta or objective.beta)
        scores["likelier"] = (compared.policy[:, 0] > compared.policy[:, 1]).float().mean()
        if trained:
            scores["loss"] = objective.values(compared, weights).mean()
        return {name: float(value) for name, value in scores.items()}
