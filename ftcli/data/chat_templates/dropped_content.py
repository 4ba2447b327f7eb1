"""Kinds of dropped content: what a chat template does not write as the data have it; and the error for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError

#: Kind of dropped content -> its description. Rows with one are refused, unless `data.on_dropped_content=warn`.
DROP_KINDS = {
    "lost_text": "text of a message is not in the conversation as the template writes it",
    "lost_reasoning": "the template drops the thinking of an answer",
    "lost_tool_call": "a tool call, or an argument of one, is not written as the data have it",
    "lost_tools": "the list of tools, or a part of it, is not in the prompt",
    "unlearned_turn": "an answer, or the beginning of one, cannot be learned",
    "no_end": "an answer is learned without a token that ends it",
    "foreign_text": "what another role says would be learned",
    "cut_special": "what is learned begins or ends inside a special token",
    "unlike_prompt": "the prompt for the last answer is not how the training text begins",
}
#: What templates leave out of earlier turns by design: generation does not see it either.
BY_DESIGN = {
    "earlier_reasoning": "the template drops the thinking of earlier answers: it is not learned",
    "earlier_prompt": "earlier answers begin otherwise than the generation prompt does",
}
SWITCH = "enable_thinking"  # the variable by which templates leave thinking out of prompts
#: Kind of dropped content -> ways to avoid it.
WAYS = {
    "lost_text": "set model.chat_template to one that writes such messages",
    "lost_tool_call": "set model.chat_template to one that writes tool calls",
    "lost_tools": "set model.chat_template to one that writes tools",
    "lost_reasoning": "set model.chat_template to one that writes thinking, or put it into the "
    "content where the template writes that whole",
    "unlike_prompt": "give every answer the thinking with which the template opens it",
}


def make_dropped_content_error(counts: Mapping[str, Any], template: str) -> UserError:
    """Error for a chat template that does not write what the data contain.

    Args:
        counts: counts of a preparation, as in `meta.json`.
        template: the source of the chat template.
    """
    kinds = [kind for kind in DROP_KINDS if kind in counts["dropped_content"]]
    named = "; ".join(
        f"{kind} in {counts['dropped_content'][kind]:,} ({DROP_KINDS[kind]}; first: "
        f"{counts['dropped_content_rows'][kind][0]})"
        for kind in kinds
    )
    ways = [WAYS[kind] for kind in kinds if kind in WAYS]
    if "unlike_prompt" in kinds and SWITCH in template:
        ways.insert(0, f"data.template_options.{SWITCH}=false where answers have no thinking")
    marked = find_training_template(template)
    if marked:
        ways.insert(0, f"model.chat_template={marked}, the same template marked for training")
    ways.append("data.on_dropped_content=warn to train on what is written; see: ftcli preview")
    return UserError(
        f"the chat template does not write what the data say. Of {counts['rows']:,} rows: {named}.",
        where="data",
        fix=", or ".join(dict.fromkeys(ways)),
    )


def find_training_template(template: str) -> Path | None:
    """Path of the template that trl ships for training in place of this one; None where there is none."""
    spec = find_spec("trl")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for path in sorted(Path(place).glob("chat_templates/*.jinja")):
            marked = path.with_name(f"{path.stem}_training.jinja")
            if marked.exists() and path.read_text(encoding="utf-8") == template:
                return marked
    return None
