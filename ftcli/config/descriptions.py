"""The help of a key, read from the comment beside it or from the docstring of its class."""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize

from ftcli.config.source import Module


def beside(node: ast.stmt | ast.arg, module: Module) -> str:
    """The help beside a field: its trailing `# text`, or the `#: text` lines above it."""
    lines = module.text.splitlines()
    end = node.end_lineno or node.lineno
    block = textwrap.dedent("\n".join(lines[node.lineno - 1 : end]))
    if "#" in lines[end - 1]:
        comments = [t.string for t in _tokens(block) if t.type == tokenize.COMMENT]
        if comments:
            return comments[-1].lstrip("#: ").strip()
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#:"):
            break
        above.insert(0, line.strip()[2:].strip())
    return " ".join(above)


def _tokens(block: str) -> list[tokenize.TokenInfo]:
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(block).readline):
            tokens.append(token)
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass  # an argument is only a piece of a statement
    return tokens


_ENTRY = re.compile(r"^\s+`{0,2}(\w+)`{0,2}\s*(?:\([^\n]*\))?\s*:\s*(.*)$")


def documented(doc: str) -> dict[str, str]:
    """Name -> first line of its text in the `Args:` part of a docstring."""
    texts: dict[str, str] = {}
    name = None
    for line in doc.splitlines():
        entry = _ENTRY.match(line)
        if entry:
            name = entry[1]
            texts.setdefault(name, entry[2].strip())
        elif name and not texts[name]:
            texts[name] = line.strip()
    return texts


def of_metadata(expr: ast.expr | None) -> str:
    """The text under `help` in the metadata of a dataclass field."""
    if not isinstance(expr, ast.Dict):
        return ""
    for key, value in zip(expr.keys, expr.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "help":
            try:
                return " ".join(str(ast.literal_eval(value)).split())
            except ValueError:
                return ""
    return ""
