"""What is wrong with a `data` group, said before a row is read or when none is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.data.accounting import accounting
from ftcli.data.fidelity import LOSSES

if TYPE_CHECKING:
    from ftcli.data.dataset import Data


def contradictions(data: Data) -> Iterator[UserError]:
    """What can be seen to be wrong before a row is read."""
    if isinstance(data.validation, float | int) and not 0 < data.validation < 1:
        yield UserError(
            f"a share of {data.validation} of the rows cannot be held out.",
            where="data.validation",
            fix="give a number between 0 and 1, a path or split, or null",
        )
    for key, least in (("max_length", 2), ("limit", 1)):
        value = getattr(data, key)
        if value is not None and value < least:
            yield UserError(
                f"{value} is too small.", f"data.{key}", f"data.{key}={least} is the least"
            )
    plain = data.template == "plain" and data.format in ("prompt", "instruction", "text")
    if data.system is not None and plain:
        yield UserError(
            f"a system message has no place in plain rows of format={data.format}.",
            where="data.system",
            fix="set data.template=chat, or write it into data.prompt_template",
        )
    if data.prompt_template is not None and data.template == "chat":
        yield UserError(
            "the chat template writes the prompt, so that this one would not be used.",
            where="data.prompt_template",
            fix="set data.template=plain or data.prompt_template=null",
        )
    if data.pairs and data.format not in ("auto", "preference"):
        yield UserError(
            f"rows of format={data.format} have no rejected answer.",
            where="data.pairs",
            fix="data.format=preference, or data.pairs=false",
        )
    if data.pairs and data.mask == "all":
        yield UserError(
            "answers are compared; the prompt, which both share, is no part of them.",
            where="data.mask",
            fix="data.mask=assistant",
        )


def not_configured(split: str) -> UserError:
    """A split that the configuration does not have."""
    choices = "a share such as 0.05, a path or a split" if split == "validation" else "a path"
    return UserError(
        f"the data have no split '{split}'.",
        where=f"data.{split}",
        fix=f"set data.{split} to {choices}",
    )


def empty(split: str, path: str, counts: Mapping[str, Any]) -> UserError:
    """A split without a row to learn from.

    Args:
        counts: what became of its rows, as in `meta.json`.
    """
    where = "data.validation" if split == "validation" else "data.path"
    what = f"the split '{split}' of {path} is empty: {accounting(counts)}."
    left_out = counts["left_out"]
    if left_out and set(left_out) == {"not to learn"}:
        first = counts["left_out_rows"]["not to learn"][0]
        return UserError(
            f"{what} First: {first}",
            where=where,
            fix="add rows with good answers; data.columns.label=null ignores a label",
        )
    return UserError(
        what,
        where=where,
        fix="check the file, data.limit and data.max_length; a share of a small file needs at least "
        "two different prompts, otherwise set data.validation=null",
    )


def lost(counts: Mapping[str, Any], template: str) -> UserError:
    """A chat template that does not write what the data say.

    Args:
        counts: of a preparation.
        template: the source of the chat template.
    """
    kinds = [kind for kind in LOSSES if kind in counts["losses"]]
    named = "; ".join(
        f"{kind} in {counts['losses'][kind]:,} ({LOSSES[kind]}; first: "
        f"{counts['losses_rows'][kind][0]})"
        for kind in kinds
    )
    ways = [WAYS[kind] for kind in kinds if kind in WAYS]
    if "unlike_prompt" in kinds and SWITCH in template:
        ways.insert(0, f"data.template_options.{SWITCH}=false where answers have no thinking")
    twin = marked_twin(template)
    if twin:
        ways.insert(0, f"model.chat_template={twin}, the same template marked for training")
    ways.append("data.on_lost=warn to train on what is written; see: ftcli preview")
    return UserError(
        f"the chat template does not write what the data say. Of {counts['rows']:,} rows: {named}.",
        where="data",
        fix=", or ".join(dict.fromkeys(ways)),
    )


SWITCH = "enable_thinking"  # the variable by which templates leave thinking out of prompts
#: Kind of loss -> what helps beside another template.
WAYS = {
    "lost_text": "set model.chat_template to one that writes such messages",
    "lost_tool_call": "set model.chat_template to one that writes tool calls",
    "lost_tools": "set model.chat_template to one that writes tools",
    "lost_reasoning": "set model.chat_template to one that writes thinking, or put it into the "
    "content where the template writes that whole",
    "unlike_prompt": "give every answer the thinking with which the template opens it",
}


def marked_twin(template: str) -> Path | None:
    """The template that trl ships for training in the place of this one, where trl is installed."""
    spec = find_spec("trl")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for path in sorted(Path(place).glob("chat_templates/*.jinja")):
            twin = path.with_name(f"{path.stem}_training.jinja")
            if twin.exists() and path.read_text(encoding="utf-8") == template:
                return twin
    return None
