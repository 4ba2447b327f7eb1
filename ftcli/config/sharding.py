"""Checks of a job with `trainer.strategy=fsdp2`, where a rank holds only a part of each weight."""

from __future__ import annotations

from collections.abc import Iterator

from ftcli.config.job import TARGET, ComposedJob, get_capability, get_effective_value
from ftcli.config.scores import EARLY_STOPPING
from ftcli.core.errors import UserError

#: Optimizers that update every entry of a tensor by itself, and were compared with one process.
ENTRYWISE = ("torch.optim.AdamW", "torch.optim.Adam", "torch.optim.SGD")
#: Callbacks that look at scores only.
CALLBACKS = (EARLY_STOPPING,)
DDP = "trainer.strategy=ddp"


def check_sharding(job: ComposedJob) -> Iterator[UserError]:
    """Parts of weights suffice for chosen methods, objectives and optimizers only."""
    if get_effective_value(job, "trainer.strategy") != "fsdp2":
        return
    for why, fix in _find_obstacles(job):
        what = f"trainer.strategy=fsdp2 ({job.where('trainer.strategy')}) with {why}."
        yield UserError(what, fix=f"either {DDP} or {fix}" if fix else DDP)


def _find_obstacles(job: ComposedJob) -> Iterator[tuple[str, str]]:
    """Yield what cannot be sharded and why, and the override that does without it (or "")."""
    stored = get_effective_value(job, "model.quantization")
    if stored not in (None, "none"):
        yield (
            f"model.quantization={stored}: a quantised weight is packed with its scales and cannot be cut",
            "model.quantization=none method=lora",
        )
    for group, instead in (("method", "method=lora"), ("objective", "objective=causal_lm")):
        if group in job.config and get_capability(job, group, "shardable") is not True:
            reads = "reads or replaces whole weights, or was not compared with one process"
            yield f"{job.format_choice(group)}, which {reads}", instead
    kind = get_effective_value(job, "optimizer.optimizer_class")
    if "optimizer" in job.config and kind not in ENTRYWISE:
        reads = "looks at whole weights, or keeps a state that cannot be cut as they are"
        yield f"{job.format_choice('optimizer')} ({kind}), which {reads}", "optimizer=adamw"
    if job.config.get("trainable"):
        yield (
            "a policy of what moves: what has a gradient is fixed when weights are cut",
            "~trainable",
        )
    if any((job.config.get("penalty") or {}).values()):
        yield "penalties, which may read whole weights", "~penalty"
    for name, node in (job.config.get("callback") or {}).items():
        if node and node.get(TARGET) not in CALLBACKS:
            yield f"callback.{name}, which was not compared with one process", f"~callback.{name}"
    if job.config.get("pipeline"):
        yield "a pipeline, whose clients train in one process", "~pipeline"
    if get_effective_value(job, "trainer.compile"):
        yield "trainer.compile=true, which was not tried with it", "trainer.compile=false"
    if get_effective_value(job, "trainer.on_spike") == "rollback":
        yield (
            "trainer.on_spike=rollback: a running rank does not read parts again",
            "trainer.on_spike=ignore",
        )
