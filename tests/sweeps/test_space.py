"""Hydra's sweep grammar, read into axes."""

from __future__ import annotations

import pytest

from ftcli.config.paths import configs_dir, list_options
from ftcli.core.errors import UserError
from ftcli.sweeps.space import Choices, Interval, parse_space, parse_value


def axes(*words):
    return parse_space(words, [configs_dir()]).axes


def test_lists_ranges_and_choices_keep_their_text_and_their_order():
    assert axes("a=8,2,4", "b=choice(x,[1,2])", "+c=1e-4,3e-4", "d='x,y','z'") == [
        Choices("a", "", ("8", "2", "4")),
        Choices("b", "", ("x", "[1,2]")),
        Choices("c", "+", ("0.0001", "0.0003")),
        Choices("d", "", ("'x,y'", "'z'")),
    ]
    assert axes("a=range(1,10,3)") == [Choices("a", "", ("1", "4", "7"), step=3)]


def test_a_list_in_brackets_or_quotes_is_one_value():
    space = parse_space(["a=[1,2]", "b='x,y'", "c=1,2"], [])
    assert space.fixed == ["a=[1,2]", "b='x,y'"] and [axis.key for axis in space.axes] == ["c"]


def test_glob_takes_the_options_of_a_group():
    (axis,) = axes("method=glob(*lora,exclude=[q*,gra*])")
    known = [name for name in list_options("method", [configs_dir()]) if name.endswith("lora")]
    assert set(axis.texts) == {n for n in known if not n.startswith(("q", "gra"))}
    assert {"lora", "dora"} & set(axis.texts) == {"lora"}


@pytest.mark.parametrize(
    ("word", "log", "whole"),
    [
        ("a=interval(1e-4,1e-2)", True, False),
        ("a=interval(1e-3,1e-2)", False, False),
        ("a=tag(log,interval(1e-3,1e-2))", True, False),
        ("a=tag(linear,interval(1e-4,1e-1))", False, False),
        ("a=interval(0,1000)", False, False),
        ("a=int(interval(2,64))", False, True),
    ],
)
def test_intervals_are_logarithmic_over_two_decades_or_on_demand(word, log, whole):
    (axis,) = axes(word)
    assert isinstance(axis, Interval) and (axis.log, axis.whole) == (log, whole)


def test_a_grid_turns_its_last_axis_fastest():
    space = parse_space(["a=1,2", "b=x,y", "seed=3"], [])
    points = list(space.grid())
    assert points == [{"a": a, "b": b} for a in "12" for b in "xy"]
    assert space.overrides(points[1]) == ["seed=3", "a=1", "b=y"]


def test_corners_show_every_value_once_without_the_product():
    space = parse_space(["a=1,2,3", "b=interval(0.1,0.2)", "c=x,y"], [])
    points = list(space.corners())
    assert len(points) == 1 + 2 + 1 + 1
    assert {p["b"] for p in points} == {"0.1", "0.2"} and {p["a"] for p in points} == set("123")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a=1"], "nothing is swept"),
        (["a=1,2", "a=3,4"], "swept twice"),
        (["method=glob(nothing*)"], "matches none of"),
        (["a=interval(2,1)"], "must be larger"),
        (["a=tag(log,interval(0,1))"], "starts above 0"),
        (["a=range(3,3)"], "holds no value"),
        (["~a=1,2"], "cannot be swept"),
    ],
)
def test_what_makes_no_sense_is_said(words, says):
    with pytest.raises(UserError, match=says):
        axes(*words)


def test_an_interval_is_no_grid():
    with pytest.raises(UserError, match="cannot be tried value by value") as caught:
        list(parse_space(["a=interval(1,2)"], []).grid())
    assert "--optuna" in caught.value.fix


def test_values_of_texts():
    assert [parse_value(t) for t in ("1", "1e-4", "true", "nf4", "[1,2]")] == [
        1,
        1e-4,
        True,
        "nf4",
        [1, 2],
    ]
