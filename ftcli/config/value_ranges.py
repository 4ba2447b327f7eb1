"""Ranges of single numbers: values that are refused, and unusual ones that `ftcli check` warns of."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ftcli.config import overrides, paths, signature
from ftcli.config.job import (
    ComposedJob,
    get_effective_value,
    iter_leaves,
)
from ftcli.config.signature import NoSuchClass
from ftcli.config.yaml_locations import read_option
from ftcli.core.errors import UserError


@dataclass(frozen=True)
class Range:
    """A range of numbers; ends that are open do not belong to it."""

    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def contains(self, number: float) -> bool:
        """Whether a number is finite and lies in the range."""
        low = number > self.least if self.open_least else number >= self.least
        high = number < self.most if self.open_most else number <= self.most
        return math.isfinite(number) and low and high

    def __str__(self) -> str:
        low = f"{'more than' if self.open_least else 'at least'} {self.least:g}"
        high = f"{'less than' if self.open_most else 'at most'} {self.most:g}"
        return " and ".join([low] * (self.least > -math.inf) + [high] * (self.most < math.inf))


AT_LEAST_ONE, AT_LEAST_ZERO, POSITIVE = Range(1), Range(0), Range(0, open_least=True)
SHARE, BELOW_ONE = Range(0, 1), Range(0, 1, open_most=True)
#: Pattern of a dotted key -> range of its value, for any class. The first matching pattern counts.
RANGES: tuple[tuple[str, Range], ...] = (
    (r"trainer\.max_steps", AT_LEAST_ZERO),  # 0: a run that only evaluates or generates
    (r"trainer\.(epochs|max_grad_norm|spike_factor)", POSITIVE),
    (
        r"trainer\.(batch_size|gradient_accumulation_steps|\w+_every|keep_last|max_skipped)",
        AT_LEAST_ONE,
    ),
    (r"trainer\.max_rollbacks", AT_LEAST_ZERO),
    (r"eval\.\w+\.(batch_size|max_new_tokens|limit)", AT_LEAST_ONE),
    (r"data\.max_length", Range(2)),
    (r"data\.limit", AT_LEAST_ONE),
    (r"optimizer\.lr", POSITIVE),
    (r"optimizer\.(weight_decay|eps)", AT_LEAST_ZERO),
    (r"optimizer\.(betas|momentum|beta1|beta2)", BELOW_ONE),
    (r"scheduler\.warmup_steps", AT_LEAST_ZERO),
    (r"scheduler\.\w+_ratio", SHARE),
    (r"method\.r", AT_LEAST_ONE),
    (r"method\.(lora_)?alpha", POSITIVE),
    (r".*dropout(_p|_prob)?|objective\.label_smoothing", BELOW_ONE),
    (r"callback\.\w+\.(patience)", AT_LEAST_ONE),
    (r"callback\.\w+\.(min_delta|alpha|factors\..*)", AT_LEAST_ZERO),
    (r"callback\.\w+\.(ratio|decay_per_layer)", POSITIVE),
    (r"callback\.\w+\.decay", BELOW_ONE),
    (r"seed", AT_LEAST_ZERO),
)


def check_ranges(composed: ComposedJob) -> Iterator[UserError]:
    """Yield the numbers outside the range of their key: counts below 1, shares above 1, a rate of 0."""
    for key, setting in iter_leaves(composed.config):
        allowed = next((r for pattern, r in RANGES if re.fullmatch(pattern, key)), None)
        for number in setting if isinstance(setting, list) else [setting]:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if allowed is not None and is_number and not allowed.contains(number):
                what = f"{key}={number} must be {allowed}."
                yield UserError(what, composed.where(key), f"see: ftcli schema {key}")


#: Largest and smallest usual ratio of a rate to that of the optimizer's packaged option. Usual rates
#: differ between optimizers by more than this (SGD 1e-2, Lion 2e-5), between jobs by less. Without
#: gradients the rate depends on the number of parameters, so that jobs differ as much as models do.
MAX_RATIO, MIN_RATIO = 1e3, 1e-4
GRADIENT_FREE_FACTOR = 100
OPTIMIZER_CLASS = "optimizer_class"


def find_unusual_values(composed: ComposedJob) -> Iterator[UserError]:
    """Yield a warning for each valid number that is probably a mistake."""
    yield from _check_rate(composed)
    yield from _check_warmup(composed)
    for key, most, why in (
        ("method.lora_dropout", 0.5, "most of the adapter's input is dropped at every step"),
        ("optimizer.weight_decay", 1.0, "weights decay to zero within some hundred steps"),
    ):
        number = get_effective_value(composed, key)
        if isinstance(number, (int, float)) and number > most:
            yield UserError(
                f"{key}={number:g}: {why}.", composed.where(key), f"{key}={most / 10:g}"
            )
    length = get_effective_value(composed, "data.max_length")
    if isinstance(length, int) and length < 16:
        what = f"data.max_length={length}: hardly any row is that short."
        yield UserError(what, composed.where("data.max_length"), "data.max_length=512")


def _check_rate(composed: ComposedJob) -> Iterator[UserError]:
    rate, usual = get_effective_value(composed, "optimizer.lr"), find_usual_rate(composed)
    if not isinstance(rate, (int, float)) or not usual or not rate:
        return
    times, wide = rate / usual, 1 if _takes_gradients(composed) else GRADIENT_FREE_FACTOR
    if MIN_RATIO / wide <= times <= MAX_RATIO * wide:
        return
    how = f"{times:.2g} times" if times > 1 else f"1/{1 / times:.2g} of"
    yield UserError(
        f"optimizer.lr={rate:g} is {how} what {composed.format_choice('optimizer')} starts from ({usual:g}): "
        + (
            "training diverges with steps that long."
            if times > 1
            else "training makes no progress with steps that short."
        ),
        composed.where("optimizer.lr"),
        overrides.format_override("optimizer.lr", usual),
    )


def _takes_gradients(composed: ComposedJob) -> bool:
    name = get_effective_value(composed, f"optimizer.{OPTIMIZER_CLASS}")
    try:
        return bool(signature.read_signature(str(name)).attributes.get("uses_backward", True))
    except NoSuchClass:
        return True


def find_usual_rate(composed: ComposedJob) -> float | None:
    """Return the rate of the packaged option of the same optimizer; None where there is none."""
    wanted = get_effective_value(composed, f"optimizer.{OPTIMIZER_CLASS}")
    for option, file in paths.list_options("optimizer").items():
        bare = ComposedJob(
            {"optimizer": read_option(file)}, {}, file, choices={"optimizer": option}
        )
        if get_effective_value(bare, f"optimizer.{OPTIMIZER_CLASS}") == wanted:
            rate = get_effective_value(bare, "optimizer.lr")
            return float(rate) if isinstance(rate, (int, float)) else None
    return None


def _check_warmup(composed: ComposedJob) -> Iterator[UserError]:
    """Yield a warning where warmup takes most of the run or more."""
    steps, last = (
        get_effective_value(composed, "scheduler.warmup_steps"),
        get_effective_value(composed, "trainer.max_steps"),
    )
    if isinstance(steps, int) and isinstance(last, int) and 0 < last <= steps:
        what = f"scheduler.warmup_steps={steps} and trainer.max_steps={last}: warmup does not end within the run."
        fix = f"scheduler.warmup_steps={max(1, last // 20)}"
        yield UserError(what, composed.where("scheduler.warmup_steps"), fix)
    share = get_effective_value(composed, "scheduler.warmup_ratio")
    if isinstance(share, (int, float)) and share > 0.5 and steps is None:
        what = f"scheduler.warmup_ratio={share:g}: most of the run is warmup."
        yield UserError(
            what, composed.where("scheduler.warmup_ratio"), "scheduler.warmup_ratio=0.03"
        )
