"""What a sweep varies: Hydra's sweep grammar, read into axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from ftcli.config import paths
from ftcli.core.errors import Problems, UserError

#: An interval whose ends lie this far apart is searched on a logarithmic scale.
LOG_FROM = 100
#: Values of one key, and trials of one grid: more is a slip of the hand.
MAX_VALUES = 10_000


@dataclass(frozen=True)
class Choices:
    """Values one key takes.

    Attributes:
        sign: what was typed before the key: "", "+" or "++".
        texts: the values, written as overrides.
        step: distance of the values of a range, which have an order; None where they have none.
    """

    key: str
    sign: str
    texts: tuple[str, ...]
    step: float | None = None

    def ends(self) -> tuple[str, ...]:
        """The values that show whether the axis composes: all of them."""
        return self.texts


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included, to search in.

    Attributes:
        log: equal ratios are equal distances.
        whole: integers only.
    """

    key: str
    sign: str
    low: float
    high: float
    log: bool
    whole: bool

    def ends(self) -> tuple[str, ...]:
        """The values that show whether the axis composes: both ends."""
        return str(self.low), str(self.high)


Axis = Choices | Interval
#: Key -> value as text, for every axis: what one trial changes.
Point = dict[str, str]


@dataclass(frozen=True)
class Space:
    """The overrides all trials share, and the axes in which they differ."""

    fixed: list[str]
    axes: list[Axis]

    def overrides(self, point: Point) -> list[str]:
        """The command line of one trial."""
        return self.fixed + [f"{axis.sign}{axis.key}={point[axis.key]}" for axis in self.axes]

    def grid(self) -> Iterator[Point]:
        """Every combination; the last axis turns fastest.

        Raises:
            UserError: an axis is an interval, which has no end of values, or there are too many.
        """
        endless = [axis.key for axis in self.axes if isinstance(axis, Interval)]
        if endless:
            raise UserError(
                f"{endless[0]} is an interval: it cannot be tried value by value.",
                where="command line",
                fix="add --optuna --trials N, or give values: "
                f"{endless[0]}=a,b,c or range(start,stop,step)",
            )
        trials = prod(len(axis.ends()) for axis in self.axes)
        if trials > MAX_VALUES:
            raise _sweep_error(
                f"that is a grid of {trials:,} trials.", "fewer values, or --optuna --trials 50"
            )
        for texts in product(*(axis.ends() for axis in self.axes)):
            yield {axis.key: text for axis, text in zip(self.axes, texts, strict=True)}

    def corners(self) -> Iterator[Point]:
        """Each value of each choice and both ends of each interval, once, the other axes at their first."""
        first = {axis.key: axis.ends()[0] for axis in self.axes}
        yield first
        for axis in self.axes:
            yield from ({**first, axis.key: text} for text in axis.ends()[1:])


def parse_space(texts: Sequence[str], folders: Sequence[Path]) -> Space:
    """Tell what is swept from what is set; `folders` hold the groups' options, for glob().

    Words that cannot be read stay among the fixed ones: composing explains them.

    Raises:
        UserError: no word varies anything, or one does so in a way that makes no sense.
    """
    parser, fixed, axes, problems = OverridesParser.create(), [], {}, []
    for text in texts:
        try:
            parsed = parser.parse_override(text)
        except HydraException:
            fixed.append(text)
            continue
        if not parsed.is_sweep_override():
            fixed.append(text)
            continue
        try:
            axis = _parse_axis(parsed, text, folders)
            if axis.key in axes:
                raise _sweep_error(f"{axis.key} is swept twice.", f"{axis.key}=a,b,c")
            axes[axis.key] = axis
        except UserError as error:
            problems.append(error)
    Problems.raise_if_any(problems)
    if not axes:
        raise UserError(
            "nothing is swept: no word gives several values.",
            where="command line",
            fix="ftcli sweep JOB optimizer.lr=1e-4,3e-4 (one run: ftcli train)",
        )
    return Space(fixed, list(axes.values()))


def parse_value(text: str) -> Any:
    """The value that an override's text stands for: number, bool, text, list."""
    return OverridesParser.create().parse_override(f"key={text}").value()


def _parse_axis(parsed: Override, text: str, folders: Sequence[Path]) -> Axis:
    key, values = parsed.key_or_group, parsed._value
    if parsed.is_delete():
        raise _sweep_error(f"'{text}' removes a key, which cannot be swept.", f"~{key}")
    sign = "++" if parsed.is_force_add() else "+" if parsed.is_add() else ""
    if isinstance(values, IntervalSweep):
        return _parse_interval(values, key, sign, text)
    if isinstance(values, Glob):
        known = list(paths.list_options(key, list(folders)))
        options = values.filter(known)
        if not options:
            what = f"'{text}' matches none of {len(known)} options of {key}."
            raise _sweep_error(what, f"ftcli ls {paths.pluralize_group(key)}")
        return Choices(key, sign, tuple(options))
    try:
        texts = tuple(dict.fromkeys(islice(parsed.sweep_string_iterator(), MAX_VALUES + 1)))
    except (ValueError, TypeError, HydraException) as error:  # a range in steps of 0
        raise _sweep_error(f"'{text}': {error}.", f"{key}=range(1,5)") from error
    if len(texts) > MAX_VALUES:
        raise _sweep_error(f"'{text}' gives more than {MAX_VALUES:,} values.", f"{key}=range(1,5)")
    if not texts:
        raise _sweep_error(f"'{text}' holds no value.", f"{key}=range(1,5)")
    if isinstance(values, RangeSweep) and not values.shuffle and values.step is not None:
        return Choices(key, sign, texts, abs(values.step))
    return Choices(key, sign, texts)


def _parse_interval(interval: IntervalSweep, key: str, sign: str, text: str) -> Interval:
    low, high = interval.start, interval.end
    if low is None or high is None or not low < high:
        raise _sweep_error(
            f"'{text}': the second end must be larger.", f"{key}=interval(1e-4,1e-2)"
        )
    scales = interval.tags & {"log", "linear"}
    if "log" in scales and low <= 0:
        raise _sweep_error(f"'{text}': a logarithmic scale starts above 0.", f"{key}=interval(...)")
    log = "log" in scales or ("linear" not in scales and low > 0 and high / low >= LOG_FROM)
    whole = isinstance(low, int) and isinstance(high, int)
    return Interval(key, sign, low, high, log, whole)


def _sweep_error(what: str, fix: str) -> UserError:
    return UserError(what, where="command line", fix=fix)
