"""Divergence of a finetuned model from the pretrained one on the pretrained distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

ROWS, TOKENS = 32, 64


@measure
def pretrained_divergence(run: Path) -> float:
    """KL(pretrained || finetuned) in nats a token, estimated on text that the pretrained model writes.

    The samples stand for the pretraining data, which do not ship: 32 texts of 64 tokens, the same
    for every run. 0 for equal models.
    """
    import torch

    from ftcli.reproduce.probe import rebuild_run
    from ftcli.run.build import open_run

    tuned = open_run(run)
    base = rebuild_run(run).model_source.load()
    start = torch.full((ROWS, 1), tuned.tokenizer.bos_token_id)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        text = base.generate(
            start, do_sample=True, top_k=0, min_new_tokens=TOKENS, max_new_tokens=TOKENS
        )
        log_p, log_q = (_log_probabilities(model, text) for model in (base, tuned.model.eval()))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def _log_probabilities(model: Any, text: Any) -> Any:
    """Return log-probabilities of every next token, float32 [rows, tokens, vocabulary]."""
    import torch

    mask = torch.ones_like(text)
    return model(input_ids=text, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
