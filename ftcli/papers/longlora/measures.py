"""Measurements of the longlora recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure


@measure(exact=True)
def longlora_score_share(run: Path) -> float:
    """Scores that a training row's attention computes in groups, as a share of those of full attention."""
    from ftcli.papers.longlora.head_groups import compute_group, cut_segments
    from ftcli.reproduce.probe import rebuild_run

    fresh: Any = rebuild_run(run)
    source, length = fresh.model_source, int(fresh.data.max_length)
    group = compute_group(length, source.group_ratio)
    halves = [cut_segments(length, group, shift) for shift in (False, source.groups == "shifted")]
    scores = sum(n * n for segments in halves for n in segments) / len(halves)
    return scores / length**2


@measure(exact=True)
def longlora_dense_difference(run: Path) -> float:
    """Largest difference of a training token's loss between packed groups and a dense mask for each head."""
    import torch

    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    packed = first_batch(fresh)
    length = int(packed["lengths"][0])
    rows = {k: packed[k].view(-1, length) for k in ("input_ids", "labels", "position_ids")}
    padded = rows | {"attention_mask": torch.ones_like(rows["input_ids"])}
    fresh.model.train()
    with torch.no_grad():
        losses = [loss_of(fresh, fresh.model, batch) for batch in (packed, padded)]
    return (losses[0] - losses[1]).abs().max().item()


@measure(exact=True)
def longlora_leak(run: Path) -> float:
    """Largest change of a training loss before the last token of a row, when that token changes."""
    import torch

    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    loader, batch = fresh.build_loader(), first_batch(fresh)
    one = loader.batch(batch["indices"][:1])
    other = {**one, "input_ids": one["input_ids"].clone()}
    other["input_ids"][0, -1] = (other["input_ids"][0, -1] + 1) % 1000 + 5
    fresh.model.train()
    with torch.no_grad():
        losses = [loss_of(fresh, fresh.model, row) for row in (one, other)]
    return (losses[0] - losses[1]).abs().max().item()


@measure(exact=True)
def longlora_evaluation_difference(run: Path) -> float:
    """Largest difference of a token's loss between this model in evaluation and the library's plain one.

    0 where evaluation uses full attention, whatever training used.
    """
    import torch

    from ftcli.models.causal_lm import CausalLMSource
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    source: Any = fresh.model_source
    plain = CausalLMSource(source.path, dtype=source.dtype, rope_scaling=source.rope_scaling).load()
    batch = first_batch(fresh)
    with torch.no_grad():
        losses = [loss_of(fresh, model.eval(), batch) for model in (fresh.model, plain)]
    return (losses[0] - losses[1]).abs().max().item()


@measure(exact=True)
def longlora_untrained_names(run: Path) -> float:
    """Parameters that are trained and are neither LoRA nor named `embed` or `norm`, plus those of these that are not."""
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    wrong = 0
    for name, parameter in fresh.model.named_parameters():
        if "original_module" in name:
            continue
        wanted = "lora_" in name or any(word in name for word in ("embed", "norm"))
        wrong += parameter.requires_grad != wanted
    return float(wrong)


@measure
def longlora_context_gain(run: Path) -> float:
    """Loss of held-out tokens that see a quarter of a row, minus that with the whole row, after training."""
    import json

    scores = json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]
    return float(scores["eval.at_256.loss"] - scores["eval.at_1024.loss"])
