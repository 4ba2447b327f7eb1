"""Numbers that are possible and still hardly meant; `ftcli check` warns of them."""

from __future__ import annotations

from collections.abc import Iterator

from ftcli.config import overrides, paths, signature
from ftcli.config.composed import Composed
from ftcli.config.effective import value
from ftcli.config.option import content
from ftcli.config.signature import NoSuchClass
from ftcli.core.errors import UserError

#: A rate of more than so many times that of the optimizer's option, or less than this share of it.
#: Steps differ between optimizers by more than this (SGD 1e-2, Lion 2e-5), between jobs by less; without
#: gradients a rate goes with the number of parameters, and jobs differ by as much as models.
TOO_HIGH, TOO_LOW = 1e3, 1e-4
WITHOUT_GRADIENTS = 100
CLASS = "optimizer_class"


def doubts(composed: Composed) -> Iterator[UserError]:
    """What a person would ask about before training."""
    yield from _rate(composed)
    yield from _warmup(composed)
    for key, most, why in (
        ("method.lora_dropout", 0.5, "most of what the adapter says is left out at every step"),
        ("optimizer.weight_decay", 1.0, "weights are drawn to nothing within some hundred steps"),
    ):
        given = value(composed, key)
        if isinstance(given, (int, float)) and given > most:
            yield UserError(f"{key}={given:g}: {why}.", composed.where(key), f"{key}={most / 10:g}")
    length = value(composed, "data.max_length")
    if isinstance(length, int) and length < 16:
        what = f"data.max_length={length}: hardly a row has so few tokens."
        yield UserError(what, composed.where("data.max_length"), "data.max_length=512")


def _rate(composed: Composed) -> Iterator[UserError]:
    rate, usual = value(composed, "optimizer.lr"), usual_rate(composed)
    if not isinstance(rate, (int, float)) or not usual or not rate:
        return
    times, wide = rate / usual, 1 if _takes_gradients(composed) else WITHOUT_GRADIENTS
    if TOO_LOW / wide <= times <= TOO_HIGH * wide:
        return
    how = f"{times:.2g} times" if times > 1 else f"1/{1 / times:.2g} of"
    yield UserError(
        f"optimizer.lr={rate:g} is {how} what {composed.named('optimizer')} starts from ({usual:g}): "
        + ("steps that long lead nowhere." if times > 1 else "steps that short learn nothing."),
        composed.where("optimizer.lr"),
        overrides.written("optimizer.lr", usual),
    )


def _takes_gradients(composed: Composed) -> bool:
    name = value(composed, f"optimizer.{CLASS}")
    try:
        return bool(signature.read(str(name)).attributes.get("uses_backward", True))
    except NoSuchClass:
        return True


def usual_rate(composed: Composed) -> float | None:
    """The rate that the packaged option of the same optimizer starts from; None where there is none."""
    wanted = value(composed, f"optimizer.{CLASS}")
    for option, file in paths.options("optimizer").items():
        bare = Composed({"optimizer": content(file)}, {}, file, choices={"optimizer": option})
        if value(bare, f"optimizer.{CLASS}") == wanted:
            rate = value(bare, "optimizer.lr")
            return float(rate) if isinstance(rate, (int, float)) else None
    return None


def _warmup(composed: Composed) -> Iterator[UserError]:
    """A rate that is never reached."""
    steps, last = value(composed, "scheduler.warmup_steps"), value(composed, "trainer.max_steps")
    if isinstance(steps, int) and isinstance(last, int) and 0 < last <= steps:
        what = f"scheduler.warmup_steps={steps} and trainer.max_steps={last}: the rate is never reached."
        fix = f"scheduler.warmup_steps={max(1, last // 20)}"
        yield UserError(what, composed.where("scheduler.warmup_steps"), fix)
    share = value(composed, "scheduler.warmup_ratio")
    if isinstance(share, (int, float)) and share > 0.5 and steps is None:
        what = f"scheduler.warmup_ratio={share:g}: most of the run is warmup."
        yield UserError(
            what, composed.where("scheduler.warmup_ratio"), "scheduler.warmup_ratio=0.03"
        )
