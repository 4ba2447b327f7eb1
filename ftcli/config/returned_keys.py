"""The keys of the dicts that a function returns, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

Keys = frozenset[str] | None  # None: they cannot be read
#: Methods by which a dict gets keys that are not read.
CHANGES = ("update", "setdefault")


def read_returned_keys(function: ast.FunctionDef, settings: Mapping[str, Any]) -> Keys:
    """Return all keys that the returned dicts may have, * for a part that is computed; None: not readable.

    Dicts that are written out are read, also comprehensions, unions by `|`, and names that these are assigned to.

    Args:
        settings: values of `self.<name>`.
    """
    reader = _Reader(function, settings)
    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return join_keys(reader.read(value) for value in values) if values else None


class _Reader:
    def __init__(self, function: ast.FunctionDef, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.assigned: dict[str, list[ast.expr | None]] = {}
        self._open: set[str] = set()  # names that are being read
        understood: set[int] = set()
        for node in ast.walk(function):
            for target, value in _list_assignments(node):
                if isinstance(target, ast.Name):
                    self.assigned.setdefault(target.id, []).append(value)
                    understood.add(id(target))
                elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                    entry = ast.Dict([target.slice], [ast.Constant(0)])
                    self.assigned.setdefault(target.value.id, []).append(entry)
            if isinstance(node, ast.Attribute) and node.attr in CHANGES:
                self.assigned.setdefault(ast.unparse(node.value), []).append(None)
        for node in ast.walk(function):  # loops, unpacking, `with ... as`
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            if isinstance(node, ast.Name) and stored and id(node) not in understood:
                self.assigned.setdefault(node.id, []).append(None)

    def read(self, value: ast.expr | None) -> Keys:
        """Return the keys of an expression that gives a dict."""
        if isinstance(value, ast.Dict):
            pairs = zip(value.keys, value.values, strict=True)
            return join_keys(self._read_key(k) if k else self.read(v) for k, v in pairs)
        if isinstance(value, ast.DictComp):
            return self._read_key(value.key)
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
            return join_keys(map(self.read, (value.left, value.right)))
        if isinstance(value, ast.IfExp):
            return join_keys(map(self.read, (value.body, value.orelse)))
        if isinstance(value, ast.Name):
            return self._read_name(value.id)
        return None

    def _read_name(self, name: str) -> Keys:
        if name in self._open:  # scores = scores | {...}
            return frozenset()
        if name not in self.assigned:
            return None
        self._open.add(name)
        keys = join_keys(map(self.read, self.assigned[name]))
        self._open.discard(name)
        return keys

    def _read_key(self, key: ast.expr) -> Keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            return frozenset([key.value])
        if isinstance(key, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "*" for p in key.values]
            return frozenset(["".join(map(str, parts))])
        if isinstance(key, ast.Attribute) and isinstance(key.value, ast.Name):
            setting = self.settings.get(key.attr) if key.value.id == "self" else None
            return frozenset([setting]) if isinstance(setting, str) else None
        return None


def _list_assignments(node: ast.AST) -> list[tuple[ast.expr, ast.expr | None]]:
    """Return the targets of an assignment with their values; an operator other than `|=` gives None."""
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return [(node.target, node.value)]
    if isinstance(node, ast.AugAssign):
        return [(node.target, node.value if isinstance(node.op, ast.BitOr) else None)]
    return []


def join_keys(parts: Iterable[Keys]) -> Keys:
    """Return the union of keys; None where some cannot be read."""
    found = list(parts)
    known = [keys for keys in found if keys is not None]
    return frozenset[str]().union(*known) if len(known) == len(found) else None
