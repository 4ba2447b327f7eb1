"""Parse tools and tool calls into OpenAI's form, with the arguments of a call as a mapping."""

from __future__ import annotations

from typing import Any

from ftcli.data import strict_json
from ftcli.data.rows import RowError, shorten


def parse_json(value: Any, what: str) -> Any:
    """Parse a value that may be JSON text; return any other value unchanged.

    Raises:
        RowError: the text is not JSON that `strict_json` accepts.
    """
    if not isinstance(value, str):
        return value
    try:
        return strict_json.load(value)
    except ValueError as error:
        raise RowError(f"{what} is text that {error}", "broken") from error


def parse_tool_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Parse the calls of a turn from one call or a list of calls, each possibly as JSON text.

    Args:
        value: calls in OpenAI's shape, or flat: {"name", "arguments"}.
        where: the turn in messages, as in "turn 3".

    Raises:
        RowError: a call without a name, or arguments that are no mapping.
    """
    value = parse_json(value, f"the tool call of {where}")
    calls = value if isinstance(value, list) else [value]
    return [_call(parse_json(call, f"a tool call of {where}"), where) for call in calls]


def is_calls(value: Any) -> bool:
    """Whether a value is a list of flat calls: [{"name", "arguments"}], possibly as JSON text."""
    try:
        value = (
            parse_json(value, "it")
            if isinstance(value, str) and value.lstrip()[:1] == "["
            else value
        )
    except RowError:
        return False
    flat = isinstance(value, list) and all(isinstance(call, dict) for call in value)
    return bool(value) and flat and all({"name", "arguments"} <= set(call) for call in value)


def parse_tools(value: Any) -> list[dict[str, Any]]:
    """Parse the tools of a conversation from a list or one tool, each possibly as JSON text.

    Raises:
        RowError: a tool without a name.
    """
    if isinstance(value, str) and not value.strip():
        return []
    value = parse_json(value, "'tools'")
    if not value:
        return []
    listed = value if isinstance(value, list) else [value]
    return [_tool(parse_json(tool, f"tool {i}"), i) for i, tool in enumerate(listed)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else call
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RowError(f"a tool call of {where} names no function: {shorten(call)}.")
    arguments = function.get("arguments", function.get("parameters"))
    fields: dict[str, Any] = {"type": "function"}
    if call.get("id") is not None:
        fields["id"] = call["id"]
    return {**fields, "function": {"name": name, "arguments": _arguments(arguments, name, where)}}


def _arguments(value: Any, name: str, where: str) -> dict[str, Any]:
    what = f"'arguments' of {name[:60]!r} in {where}"
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    for _ in range(2):  # some files encode the JSON text as JSON a second time
        value = parse_json(value, what)
    if not isinstance(value, dict):
        raise RowError(f"{what} are {shorten(value)}, expected an object.")
    return value


def _tool(tool: Any, number: int) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else tool
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"tool {number} has no name: {shorten(tool)}.")
    function = {
        key: value for key, value in function.items() if function is not tool or key != "type"
    }
    if "parameters" in function:
        function["parameters"] = _schema(
            parse_json(function["parameters"], f"'parameters' of tool {number}")
        )
    return {"type": "function", "function": function}


def _schema(parameters: Any) -> Any:
    """Return parameters as JSON Schema; some data sets (xLAM) list the properties alone."""
    bare = isinstance(parameters, dict) and parameters and "properties" not in parameters
    if bare and all(isinstance(value, dict) for value in parameters.values()):
        return {"type": "object", "properties": parameters}
    return parameters
