"""What keys mean together: small functions over plain data, each for one contradiction.

They run once every single value is sound, before torch is imported or anything is downloaded.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ftcli.config import requirements
from ftcli.config.composed import COMMAND_LINE, Composed, leaves
from ftcli.config.effective import promise, value
from ftcli.core.errors import UserError
from ftcli.core.run_dir import is_plain

log = logging.getLogger("ftcli.config")


@dataclass(frozen=True)
class Range:
    """What a number may be; `open` ends do not belong to it."""

    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, number: float) -> bool:
        """Whether a number lies in it."""
        low = number > self.least if self.open_least else number >= self.least
        high = number < self.most if self.open_most else number <= self.most
        return math.isfinite(number) and low and high

    def __str__(self) -> str:
        low = f"{'more than' if self.open_least else 'at least'} {self.least:g}"
        high = f"{'less than' if self.open_most else 'at most'} {self.most:g}"
        return " and ".join([low] * (self.least > -math.inf) + [high] * (self.most < math.inf))


ONE, NONE, POSITIVE = Range(1), Range(0), Range(0, open_least=True)
SHARE, LOSS = Range(0, 1), Range(0, 1, open_most=True)
#: Pattern of a dotted key -> what it may be, whichever class reads it. The first that fits counts.
RANGES: tuple[tuple[str, Range], ...] = (
    (r"trainer\.max_steps", NONE),  # 0: a run that only judges or draws
    (r"trainer\.(epochs|max_grad_norm|spike_factor)", POSITIVE),
    (r"trainer\.(batch_size|gradient_accumulation_steps|\w+_every|keep_last|max_skipped)", ONE),
    (r"trainer\.max_rollbacks", NONE),
    (r"eval\.\w+\.(batch_size|max_new_tokens|limit)", ONE),
    (r"data\.max_length", Range(2)),
    (r"data\.limit", ONE),
    (r"optimizer\.lr", POSITIVE),
    (r"optimizer\.(weight_decay|eps)", NONE),
    (r"optimizer\.(betas|momentum|beta1|beta2)", LOSS),
    (r"scheduler\.warmup_steps", NONE),
    (r"scheduler\.\w+_ratio", SHARE),
    (r"method\.r", ONE),
    (r"method\.(lora_)?alpha", POSITIVE),
    (r".*dropout(_p|_prob)?", LOSS),
    (r"seed", NONE),
)

#: Groups whose parts have names of their own, which files are called by.
NAMED = ("eval", "logger", "penalty")


def problems(composed: Composed) -> list[UserError]:
    """All contradictions of a job."""
    return requirements.problems(composed) + [e for check in CHECKS for e in check(composed)]


def out_of_range(job: Composed) -> Iterator[UserError]:
    """Numbers that cannot mean anything: counts below one, shares above it, a rate of nothing."""
    for key, given in leaves(job.config):
        allowed = next((r for pattern, r in RANGES if re.fullmatch(pattern, key)), None)
        for number in given if isinstance(given, list) else [given]:
            wrong = isinstance(number, (int, float)) and not isinstance(number, bool)
            if allowed is not None and wrong and not allowed.holds(number):
                what = f"{key}={number} must be {allowed}."
                yield _said(job, key, what, f"see: ftcli schema {key}")


def file_names(job: Composed) -> Iterator[UserError]:
    """What becomes the name of a file or folder must be one name, not a path to elsewhere."""
    given: dict[str, Any] = {"run.name": job.get("run.name")}
    for group in NAMED:
        nodes = job.config.get(group)
        for name, node in nodes.items() if isinstance(nodes, dict) else ():
            given[f"{group}.{name}"] = name
            given[f"{group}.{name}.name"] = node.get("name") if isinstance(node, dict) else None
    for key, name in given.items():
        if name is not None and not is_plain(str(name)):
            what = f"{str(name)!r} is no plain name for a file."
            yield _said(job, key, what, "letters, digits, - and _, without / and .. in front")


def no_end(job: Composed) -> Iterator[UserError]:
    """Neither steps nor epochs."""
    keys = ("trainer.max_steps", "trainer.epochs")
    if "trainer" in job.config and all(value(job, key) is None for key in keys):
        what = "trainer.max_steps and trainer.epochs are both null: training would have no end."
        yield _said(job, "trainer.epochs", what, "trainer.epochs=1")


def quantised_base(job: Composed) -> Iterator[UserError]:
    """A method that moves the base's own weights cannot have them quantised."""
    stored = value(job, "model.quantization")
    if stored not in (None, "none") and promise(job, "method", "quantisable") is False:
        what = f"{job.named('method')} with {_at(job, 'model.quantization', stored)}: "
        what += "this method trains the weights themselves, which quantised weights cannot be."
        yield UserError(what, fix="either model.quantization=none or a method on top, method=lora")


def half_weights(job: Composed) -> Iterator[UserError]:
    """float16 has no room for small gradients; bf16 activations do not meet float16 weights."""
    if value(job, "model.dtype") != "float16":
        return
    at = _at(job, "model.dtype", "float16")
    if promise(job, "method", "artefact") == "model":
        what = f"{job.named('method')} with {at}: small updates vanish in float16 weights."
        yield UserError(what, fix="model.dtype=bfloat16 or model.dtype=float32")
    if value(job, "trainer.precision") == "bf16":
        what = f"{_at(job, 'trainer.precision', 'bf16')} with {at}: two half precisions meet."
        yield UserError(what, fix="model.dtype=bfloat16")


def packed_attention(job: Composed) -> Iterator[UserError]:
    """Only our attention keeps the documents of a packed row apart."""
    packing, attention = value(job, "data.packing"), value(job, "model.attention")
    if packing in (None, "none", "auto") or attention in (None, "auto"):
        return
    what = f"{_at(job, 'data.packing', packing)} with {_at(job, 'model.attention', attention)}: "
    what += "documents that share a row would attend to each other."
    yield UserError(what, fix="either model.attention=auto or data.packing=none")


def packed_prompts(job: Composed) -> Iterator[UserError]:
    """A method that stands before a row cannot stand before each document in it."""
    packing = value(job, "data.packing")
    if packing not in (None, "none", "auto") and promise(job, "method", "packable") is False:
        what = f"{job.named('method')} with {_at(job, 'data.packing', packing)}: "
        what += "it adds to each row, and a packed row holds several documents."
        yield UserError(what, fix="data.packing=none")


def recomputed_blocks(job: Composed) -> Iterator[UserError]:
    """What reaches blocks through a cache is not there when they are computed again."""
    if not value(job, "trainer.gradient_checkpointing"):
        return
    if promise(job, "method", "gradient_checkpointing") is False:
        what = f"{job.named('method')} with {_at(job, 'trainer.gradient_checkpointing', True)}: "
        what += "its blocks cannot be computed again in backward."
        yield UserError(what, fix="trainer.gradient_checkpointing=false")


def two_warmups(job: Composed) -> Iterator[UserError]:
    """Both ways to say how long the warmup is, by the same hand; otherwise the command line wins."""
    keys = ("scheduler.warmup_ratio", "scheduler.warmup_steps")
    ratio, steps = (job.get(key) for key in keys)
    if not ratio or steps is None:
        return
    typed = [job.origin(key) == COMMAND_LINE for key in keys]
    if typed[0] == typed[1] or typed[0]:
        what = f"scheduler.warmup_ratio={ratio} and scheduler.warmup_steps={steps} are both given."
        fix = "keep one: scheduler.warmup_ratio=0 or scheduler.warmup_steps=null"
        yield _said(job, keys[1], what, fix)
    else:
        log.warning(
            "%s is ignored: scheduler.warmup_steps=%s is given", _at(job, keys[0], ratio), steps
        )


def never_reached(job: Composed) -> Iterator[UserError]:
    """Intervals longer than the run are no mistake (a short trial of a long job): only said."""
    steps = job.get("trainer.max_steps")
    every = job.get("trainer.eval_every")
    if isinstance(steps, int) and isinstance(every, int) and every > steps:
        log.warning(
            "%s: the run has %d steps, so it is judged only before and after",
            _at(job, "trainer.eval_every", every), steps,
        )  # fmt: skip
    return iter(())


def idle_compute_dtype(job: Composed) -> Iterator[UserError]:
    """Only 4-bit weights are computed in a dtype of their own."""
    given, stored = job.get("model.compute_dtype"), value(job, "model.quantization")
    if given and stored in ("none", "int8"):
        log.warning(
            "%s is ignored: model.quantization=%s", _at(job, "model.compute_dtype", given), stored
        )
    return iter(())


Check = Callable[[Composed], Iterator[UserError]]
CHECKS: tuple[Check, ...] = (
    out_of_range, file_names, no_end, quantised_base, half_weights, packed_attention, packed_prompts,
    recomputed_blocks,
    two_warmups, never_reached, idle_compute_dtype,
)  # fmt: skip


def _at(job: Composed, key: str, given: Any) -> str:
    """`model.quantization=nf4 (configs/my.yaml:9)`; a default has no place."""
    place = f" ({job.where(key)})" if job.get(key) is not None else " (its default)"
    return f"{key}={given}{place}"


def _said(job: Composed, key: str, what: str, fix: str) -> UserError:
    return UserError(what, where=job.where(key), fix=fix)
