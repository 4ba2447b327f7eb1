"""The keys of returned dicts are read from source, or not at all."""

from __future__ import annotations

import ast

import pytest

from ftcli.config.returned_keys import read_returned_keys


def read(*lines: str) -> frozenset[str] | None:
    function = ast.parse("def f(self, x):\n    " + "\n    ".join(lines)).body[0]
    assert isinstance(function, ast.FunctionDef)
    return read_returned_keys(function, {"name": "denoised", "k": 3})


@pytest.mark.parametrize(
    ("lines", "keys"),
    [
        (["return {}"], set()),
        (["if not x:", "    return {}", "return {'a': 1, 'b': 2}"], {"a", "b"}),
        (["return {'a': 1} if x else {'b': 1}"], {"a", "b"}),
        (["return {self.name: 1}"], {"denoised"}),
        (["return {f'top{self.k}': 1, f'loss/{x}': 2}"], {"top*", "loss/*"}),
        (["s = {'a': 1}", "s |= {f'a/{t}': 1 for t in x}", "s['b'] = 2", "return s"], {"a", "a/*", "b"}),
        (["s: dict[str, float] = {'a': 1}", "s = s | {'b': 1}", "return s"], {"a", "b"}),
        (["return {**{'a': 1}, 'b': 2}"], {"a", "b"}),
    ],
)  # fmt: skip
def test_dicts_that_are_written_out(lines, keys):
    assert read(*lines) == keys


@pytest.mark.parametrize(
    "lines",
    [
        ["pass"],
        ["return x"],
        ["return g(x)"],
        ["return {x: 1}"],
        ["return {self.k: 1}"],
        ["return {k: 1 for k in x}"],
        ["return {**x, 'a': 1}"],
        ["s = {'a': 1}", "s.update(x)", "return s"],
        ["s = {'a': 1}", "s |= x", "return s"],
        ["s = {'a': 1}", "s[x] = 1", "return s"],
        ["s = {'a': 1}", "s, t = x", "return s"],
        ["s = {'a': 1}", "for s in x:", "    return s"],
        ["if x:", "    return g(x)", "return {'a': 1}"],
    ],
)
def test_anything_else_is_not_known(lines):
    assert read(*lines) is None
