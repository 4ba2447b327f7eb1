"""Every chat template that trl ships, with every kind of conversation: no loss is unreported.

The judge is independent of the code under test. Each text is a word that stands nowhere else, and
the judge looks at learned tokens alone: which words are in them, what ends them, how they begin.
"""

from __future__ import annotations

import copy
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from ftcli.data.chat_templates.dropped_content import BY_DESIGN, DROP_KINDS
from ftcli.data.render import Renderer, RenderSettings
from ftcli.data.rows import RowError

from .conversations import Kind, everything

FOLDER = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
TOKENS = re.compile(
    r"<\|[^<>|\s]+\|?>|<｜[^｜]+｜>|<[a-z_]+\|>|<(?:start|end)_of_\w+>|\[gMASK\]|<sop>|</?think>"
    r"|</?tool_\w+>|</?arg_\w+>|<image>|</s>"
)
#: First letters of a template's name -> the tokens that end a turn, by its model's documentation.
ENDS = {
    "cohere": {"<|END_OF_TURN_TOKEN|>"},
    "deepseek": {"<|eos|>", "<｜end▁of▁sentence｜>"},
    "diffusion_gemma": {"<turn|>", "<|tool_response>"},
    "gemma4": {"<turn|>", "<|tool_response>"},
    "gemma": {"<end_of_turn>"},
    "glm": {"<|user|>", "<|observation|>"},
    "gptoss": {"<|return|>", "<|end|>", "<|call|>"},
    "idefics": {"<end_of_utterance>"},
    "smolvlm": {"<end_of_utterance>"},
    "lfm2": {"<|im_end|>"},
    "llama": {"<|eot_id|>", "<|eom_id|>"},
    "llava": {"</s>", "<|eos|>"},
    "muse": {"<|eot|>", "<|eos|>"},
    "nemotron": {"<|im_end|>"},
    "phi": {"<|end|>", "<|eos|>"},
    "qwen": {"<|im_end|>"},
}


def tokenizer_for(base, name):
    """Return the shipped tokenizer with a template and every special token that it writes."""
    chat_tokenizer = copy.deepcopy(base)
    chat_tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    chat_tokenizer.add_tokens(
        sorted(set(TOKENS.findall(chat_tokenizer.chat_template))), special_tokens=True
    )
    return chat_tokenizer


def learned_stretches(tokenizer, document):
    stretches, before = [], 0
    for token, learned in zip(document.ids.tolist(), document.loss_mask.tolist(), strict=True):
        if learned and not before:
            stretches.append([])
        if learned:
            stretches[-1].append(token)
        before = learned
    return [tokenizer.decode(tokens) for tokens in stretches]


def ends_of(name):
    return next(ends for start, ends in ENDS.items() if name.startswith(start))


def judge(kind: Kind, name, tokenizer, document) -> set[str]:
    """Return the kinds of dropped content of a document, by ftcli's kinds."""
    stretches = learned_stretches(tokenizer, document)
    learned = "\x00".join(stretches)
    whole = tokenizer.decode(document.ids.tolist())
    wrong = set()
    for number, answer in enumerate(kind.answers):
        place = learned if answer.learn else whole
        for words, kind_of_drop in (
            (answer.thoughts, "lost_reasoning"),
            (answer.texts, "lost_text"),
            (answer.calls, "lost_tool_call"),
        ):
            if any(word not in place for word in words):
                wrong.add(kind_of_drop)
        words = [*answer.thoughts, *answer.texts, *answer.calls]
        if not answer.learn and any(word in learned for word in words):
            wrong.add("LEARNED")
        if answer.learn and (ends := [learned.find(w) + len(w) for w in words if w in learned]):
            following = [
                w for s in kind.answers[number + 1 :] for w in (*s.thoughts, *s.texts, *s.calls)
            ]
            behind = learned[max(ends) :].partition("\x00")[0]
            cut = min((behind.find(w) for w in following if w in behind), default=len(behind))
            if not any(end in behind[:cut] for end in ends_of(name)):
                wrong.add("no_end")
    order = [learned.find(w) for s in kind.answers if s.learn for w in (*s.thoughts, *s.texts)]
    if (positions := [at for at in order if at >= 0]) != sorted(positions):
        wrong.add("ORDER")
    if any(word in learned for word in (*kind.context, *kind.tool_words[2:])):
        wrong.add("foreign_text")
    if any(word not in whole for word in kind.context):
        wrong.add("lost_text")
    if any(word not in whole for word in kind.tool_words):
        wrong.add("lost_tools")
    if '\\\\"' in learned or re.search(r"\{'\w+Zq", learned):
        wrong.add("lost_tool_call")
    wrong |= {"cut_special" for s in stretches if s and re.match(r"\w*\|>|[a-z_]+>", s)}
    if kind.messages[-1]["role"] == "assistant" and kind.answers[-1].learn:
        example = {"messages": kind.messages, "tools": kind.tools}
        prompt = Renderer(RenderSettings(), tokenizer).encode_prompt(example)
        if document.ids[: len(prompt)].tolist() != prompt:
            wrong.add("unlike_prompt")
    return wrong


def verdict(kind: Kind, name, tokenizer):
    """Return (reported, actual) dropped content of one conversation; reported is None where it is refused."""
    example = {"messages": kind.messages, **({"tools": kind.tools} if kind.tools else {})}
    (documents,) = Renderer(RenderSettings(), tokenizer).tokenize_documents([example])
    if isinstance(documents, RowError):
        return None, str(documents)
    return set(documents[0].dropped_content), judge(kind, name, tokenizer, documents[0])


def silent(reported, wrong) -> set[str]:
    """Return the unreported kinds of dropped content; those by design count as reports of lost thinking and prompts."""
    known = reported | ({"lost_reasoning"} if "earlier_reasoning" in reported else set())
    known |= {"lost_text"} if "unlearned_turn" in reported else set()
    if (
        reported & DROP_KINDS.keys()
    ):  # where a turn is lost, neither its end nor its prompt can be judged
        known |= {"no_end", "unlike_prompt"}
    return wrong - known


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_in_silence(tokenizer, name):
    chat_tokenizer = tokenizer_for(tokenizer, name)
    for title, kind in everything().items():
        reported, wrong = verdict(kind, name, chat_tokenizer)
        if reported is not None:
            assert not silent(reported, wrong), (title, reported, wrong)
            assert wrong or not reported & DROP_KINDS.keys(), (title, reported)  # no false alarm
            assert reported <= {*DROP_KINDS, *BY_DESIGN}
