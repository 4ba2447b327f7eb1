"""Objects are built from nodes, and errors of their classes become messages with file and line."""

from __future__ import annotations

import sys

import pytest

from ftcli.config import build, compose
from ftcli.config.building import locate_error
from ftcli.core.errors import UserError


def test_a_node_becomes_the_object_it_names():
    schedule = build({"_target_": "ftcli.schedulers.linear.Linear", "warmup_ratio": 0.5})
    assert schedule.warmup_ratio == 0.5
    assert schedule.factor(0, 4) == 0.5


@pytest.fixture
def mine(write, monkeypatch):
    write(
        "my_parts.py",
        "from ftcli.core.errors import UserError\n"
        "class Pair:\n"
        "    def __init__(self, left, right=None, many=()):\n"
        "        self.left, self.right, self.many = left, right, many\n"
        "class Refuses:\n"
        "    def __init__(self, size=1):\n"
        "        raise UserError('too large.', where='optimizer.size')\n"
        "class Values:\n"
        "    def __init__(self):\n"
        "        raise ValueError('left is right')\n"
        "class Needs:\n"
        "    def __init__(self):\n"
        "        import schedulefree_that_is_not_there\n",
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.setenv("FTCLI_TRUST", "my_parts")
    yield
    sys.modules.pop("my_parts", None)


def test_nodes_inside_nodes_are_built_first_and_requirements_are_not_passed(mine):
    inner = {"_target_": "ftcli.schedulers.constant.Constant"}
    pair = build(
        {
            "_target_": "my_parts.Pair", "left": inner, "many": [inner, 3],
            "right": {"deep": inner, "x": 1}, "requires": {"a": [1]},
        }
    )  # fmt: skip
    names = [type(x).__name__ for x in (pair.left, pair.many[0], pair.right["deep"])]
    assert names == ["Constant"] * 3 and pair.many[1] == 3 and pair.right["x"] == 1


def test_an_error_names_the_line_of_its_key(mine, write):
    job = compose(write("job.yaml", "optimizer:\n  _target_: my_parts.Refuses\n  size: 9\n"))
    with pytest.raises(UserError) as caught:
        build(job.config["optimizer"], "optimizer", job)
    assert caught.value.where == "job.yaml:3"
    assert caught.value.what == "optimizer.size: too large."


def test_an_error_without_a_place_gets_that_of_its_node(write):
    job = compose(write("job.yaml", "seed: 1\ndata:\n  path: x\n"))
    assert locate_error(UserError("no."), job, "data").where == "job.yaml:2"
    assert locate_error(UserError("no.", where="row 7"), job, "data").where == "row 7"
    assert locate_error(UserError("no.", where="data.path"), None).where == "data.path"


def test_a_value_error_of_the_class_is_a_message(mine):
    with pytest.raises(UserError, match="left is right") as caught:
        build({"_target_": "my_parts.Values"}, "method")
    assert caught.value.fix == "see: ftcli schema method"


def test_a_package_that_is_missing_is_named(mine):
    with pytest.raises(UserError) as caught:
        build({"_target_": "my_parts.Needs"}, "optimizer")
    assert "'schedulefree_that_is_not_there'" in caught.value.what
    assert str(caught.value.fix).startswith("pip install")


def test_only_allowed_packages_are_imported(monkeypatch):
    monkeypatch.delenv("FTCLI_TRUST", raising=False)
    for target in ("os.system", "ftcliother.Thing", "my_parts.Pair"):
        with pytest.raises(UserError, match="outside ftcli"):
            build({"_target_": target})


@pytest.mark.parametrize("target", ["ftcli.schedulers.linear.Liner", "ftcli.schedulers.lin.Linear"])
def test_a_class_that_is_not_there_is_a_message(target):
    with pytest.raises(UserError, match="no such class"):
        build({"_target_": target}, "scheduler")
