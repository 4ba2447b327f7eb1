"""The space of a sweep: Hydra's sweep grammar, parsed into axes."""

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

#: An interval with this ratio of its ends or more is searched on a logarithmic scale.
LOG_FROM = 100
#: Largest number of values of one key, and of trials of a grid.
MAX_VALUES = 10_000


@dataclass(frozen=True)
class Choices:
    """The values of one key.

    Attributes:
        sign: prefix of the key as typed: "", "+" or "++".
        texts: the values, written as overrides.
        step: distance of the values of a range; None for values without an order.
    """

    key: str
    sign: str
    texts: tuple[str, ...]
    step: float | None = None

    def ends(self) -> tuple[str, ...]:
        """Return the values that are composed to check the axis: all of them."""
        return self.texts


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included, for a search.

    Attributes:
        log: whether the scale is logarithmic.
        whole: whether only integers are drawn.
    """

    key: str
    sign: str
    low: float
    high: float
    log: bool
    whole: bool

    def ends(self) -> tuple[str, ...]:
        """Return the values that are composed to check the axis: both ends."""
        return str(self.low), str(self.high)


Axis = Choices | Interval
#: Key -> value as text, for every axis: the values of one trial.
Point = dict[str, str]


@dataclass(frozen=True)
class Space:
    """The overrides that all trials share, and the axes in which they differ."""

    fixed: list[str]
    axes: list[Axis]

    def overrides(self, point: Point) -> list[str]:
        """Return the overrides of one trial."""
        return self.fixed + [f"{axis.sign}{axis.key}={point[axis.key]}" for axis in self.axes]

    def grid(self) -> Iterator[Point]:
        """Yield every combination; the last axis varies fastest.

        Raises:
            UserError: an axis is an interval, or there are too many combinations.
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
        """Yield each value of each axis (both ends of intervals) once, the other axes at their first value."""
        first = {axis.key: axis.ends()[0] for axis in self.axes}
        yield first
        for axis in self.axes:
            yield from ({**first, axis.key: text} for text in axis.ends()[1:])


def parse_space(texts: Sequence[str], folders: Sequence[Path]) -> Space:
    """Split overrides into swept axes and fixed ones; `folders` hold the options of groups, for glob().

    Words that cannot be parsed stay fixed; composing reports them.

    Raises:
        UserError: no word is swept, or a sweep is not valid.
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
    """Return the value of an override's text: number, bool, text, list."""
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
