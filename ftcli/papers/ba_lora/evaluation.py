"""Evaluator of the predicted distributions: distance to the pretrained model, entropy, spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.models.decoding import evaluation_mode
from ftcli.papers.ba_lora.consistency import Consistency
from ftcli.papers.ba_lora.diversity import Diversity
from ftcli.papers.ba_lora.spectrum import Spectrum

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Outputs:
    """Measure the quantities that BA-LoRA's penalties (arXiv 2408.04556) act on, also without them.

    `teacher_kl` is KL(pretrained || finetuned) and `entropy` that of the finetuned model, both in nats
    and means over labelled tokens. `top_mass` is the share of the k largest singular values of the
    logits, a mean over batches weighted by their labelled tokens.
    """

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int | None = None  # rows (or packed bins) a forward pass; null: the trainer's
    limit: int | None = None  # stop after this many rows; null reads all
    k: int = 3  # singular values of top_mass
    svd_positions: int = 128  # labelled tokens of a batch whose logits are the matrix
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Run) -> dict[str, float]:
        """Return `teacher_kl`, `entropy` and `top_mass`.

        Raises:
            UserError: the split has no labelled token, or the objective gives no logits.
        """
        parts: dict[str, tuple[float, Any]] = {
            "teacher_kl": (1.0, Consistency()),
            "entropy": (-1.0, Diversity()),
            "top_mass": (-1.0, Spectrum(k=self.k, svd_positions=self.svd_positions)),
        }
        for _, penalty in parts.values():
            penalty.setup(run)
        size, rows, tokens = self.batch_size or run.trainer.batch_size, 0, 0
        totals = dict.fromkeys(parts, 0.0)
        loader = run.data.loader(self.split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        with evaluation_mode(run) as model:
            for batch in loader:
                losses = run.objective(model, batch)
                for name, (sign, penalty) in parts.items():
                    totals[name] += (
                        sign * batch["num_supervised"] * float(penalty(model, batch, losses))
                    )
                tokens += batch["num_supervised"]
                rows += len(batch["indices"])
                if self.limit is not None and rows >= self.limit:
                    break
        if not tokens:
            raise UserError(f"the split '{self.split}' has no labelled token.", where="eval")
        return {name: total / tokens for name, total in totals.items()}
