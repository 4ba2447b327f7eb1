"""What finetuning on something else costs on grade-school maths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS = 64


def gsm8k_forgetting(run: Path) -> float:
    """Loss of GSM8K's held-out questions and answers after finetuning minus the base's, nats a token.

    Every token is judged, those of the question too. Negative where finetuning has helped.
    """
    from ftcli.data.dataset import Data
    from ftcli.reproduce.probe import again
    from ftcli.run.build import open_run

    tuned = open_run(run)
    data = Data(
        "asset:gsm8k", split="test", format="prompt", mask="all", limit=ROWS, packing="none",
        columns={"prompt": "question", "completion": "answer"}, cache_dir=tuned.data.cache_dir,
    )  # fmt: skip
    loader = data.loader("train", tuned.tokenizer, batch_size=8, shuffle=False)
    base = again(run).model_source.load().to(tuned.accelerator.device)
    before, after = (_loss(tuned, model, list(loader)) for model in (base, tuned.model))
    return after - before


def _loss(run: Any, model: Any, batches: list[dict[str, Any]]) -> float:
    import torch

    from ftcli.reproduce.probe import loss_of

    with torch.no_grad():
        values = torch.cat([loss_of(run, model.eval(), batch) for batch in batches])
    return values.double().mean().item()
