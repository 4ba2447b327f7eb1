"""Each kind of loss is found, and a complete conversation has none."""

from __future__ import annotations

import pytest

from ftcli.data.render import Renderer, RenderSettings

from .. import templates
from .test_template import TALK, assistant, learned_texts, render, user

ARGUMENTS = {"town": "Graz", "days": 3, "units": ["°C", "km/h"], "deep": {"exact": True}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
CALLED = [user("How is it?"), CALLING, {"role": "tool", "content": "sunny"}, assistant("Sunny.")]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
WRITTEN = '{"town": "Graz", "days": 3, "units": ["°C", "km/h"], "deep": {"exact": true}}'


def dropped_content(tokenizer, messages, tools=None, **settings):
    example = {"messages": messages, **({"tools": tools} if tools else {})}
    ((document,),) = Renderer(RenderSettings(**settings), tokenizer).tokenize_documents([example])
    return set(document.dropped_content)


@pytest.mark.parametrize("name", sorted(templates.ALL.keys() - {"deepseek_r1"}))
def test_a_conversation_that_is_whole_has_no_loss(with_template, name):
    assert dropped_content(with_template(name), TALK) <= {"earlier_prompt"}


@pytest.mark.parametrize("template", [templates.CALLS_OF_OBJECTS, templates.CALLS_OF_TEXT])
def test_a_call_is_learned_once_in_the_form_that_the_template_wants(with_template, template):
    chat_tokenizer = with_template(template)
    example = {"messages": CALLED, "tools": [TOOL]}
    ((document,),) = Renderer(RenderSettings(), chat_tokenizer).tokenize_documents([example])
    assert document.dropped_content == ()
    call = f"<call>weather {WRITTEN}</call><|im_end|>"
    assert learned_texts(chat_tokenizer, document) == [call, "Sunny.<|im_end|>"]


def test_a_template_without_tools_loses_the_call_and_the_list(with_template):
    assert dropped_content(with_template("chatml"), CALLED, [TOOL]) == {
        "lost_tool_call",
        "lost_tools",
    }


def test_an_argument_that_a_template_leaves_out_is_a_lost_call(with_template):
    chat_tokenizer = with_template(
        templates.CALLS_OF_OBJECTS.replace("| tojson + '</call>'", "['town'] + '</call>'")
    )
    assert dropped_content(chat_tokenizer, CALLED, [TOOL]) == {"lost_tool_call"}


def test_arguments_that_are_encoded_twice_are_a_lost_call(with_template):
    twice = templates.CALLS_OF_OBJECTS.replace(
        "| tojson + '</call>'", "| tojson | tojson + '</call>'"
    )
    assert dropped_content(with_template(twice), CALLED, [TOOL]) == {"lost_tool_call"}


def test_text_beside_a_call_that_a_template_leaves_out_is_lost_text(with_template):
    chat_tokenizer = with_template(
        templates.CALLS_OF_OBJECTS.replace("+ m['content'] }}", "+ (m['content'] if not m['tool_calls'] else '') }}")
    )  # fmt: skip
    talk = [user("How is it?"), {**CALLING, "content": "I look."}, *CALLED[2:]]
    assert dropped_content(chat_tokenizer, talk, [TOOL]) == {"lost_text"}
    assert dropped_content(chat_tokenizer, CALLED, [TOOL]) == set()


def test_thinking_that_no_answer_shows_is_lost_and_that_of_earlier_ones_is_by_design(with_template):
    thinks = {**assistant("2"), "reasoning_content": "one and one"}
    tagged = assistant("<think>\none and one\n</think>\n\n2")
    more = [user("2+2?"), assistant("4")]
    assert dropped_content(with_template("chatml"), [user("1+1?"), thinks]) == {"lost_reasoning"}
    assert dropped_content(with_template("chatml"), [user("1+1?"), thinks, *more]) == {
        "lost_reasoning"
    }
    assert dropped_content(with_template("chatml"), [user("1+1?"), tagged, *more]) == set()
    assert dropped_content(with_template("qwen3"), [user("1+1?"), tagged]) == set()
    assert dropped_content(with_template("qwen3"), [user("1+1?"), tagged, *more]) == {
        "earlier_reasoning"
    }
    assert "lost_reasoning" in dropped_content(with_template("deepseek_r1"), [user("1+1?"), tagged])


def test_a_prompt_that_opens_another_answer_is_named(with_template):
    assert dropped_content(with_template("deepseek_r1"), TALK) == {
        "unlike_prompt",
        "earlier_prompt",
    }


def test_another_roles_text_that_is_lost_is_named(with_template):
    chat_tokenizer = with_template(
        templates.CHATML.replace("m['content']", "(m['content'] if m['role'] != 'user' else '')")
    )
    assert dropped_content(chat_tokenizer, TALK) == {"lost_text"}


def test_text_is_written_as_parts_where_a_template_wants_parts(with_template):
    chat_tokenizer = with_template(templates.PARTS)
    document = render(chat_tokenizer, TALK)
    assert document.dropped_content == ()
    assert learned_texts(chat_tokenizer, document) == [
        "Blue it is.<|im_end|>",
        "  Red.\n<|im_end|>",
    ]
    prompt = Renderer(RenderSettings(), chat_tokenizer).encode_prompt({"messages": TALK})
    assert document.ids[: len(prompt)].tolist() == prompt


def test_parts_are_written_as_text_where_a_template_wants_text(with_template):
    chat_tokenizer = with_template("chatml")
    parts = [{"type": "text", "text": "Blue "}, {"type": "text", "text": "it is."}]
    document = render(chat_tokenizer, [user("Say blue."), {"role": "assistant", "content": parts}])
    assert learned_texts(chat_tokenizer, document) == ["Blue it is.<|im_end|>"]


@pytest.mark.parametrize("train_on", ["assistant", "all"])
@pytest.mark.parametrize("name", ["chatml", "chatml_marked"])
def test_a_turn_that_is_not_to_be_learned_is_not(with_template, name, train_on):
    talk = [TALK[0], {**TALK[1], "learn": False}, *TALK[2:]]
    chat_tokenizer = with_template(name)
    document = render(chat_tokenizer, talk, train_on=train_on)
    learned = " ".join(learned_texts(chat_tokenizer, document))
    assert "Blue" not in learned and "Red." in learned
    assert ("And red?" in learned) == (train_on == "all")
    assert "Blue it is." in chat_tokenizer.decode(document.ids)


ENDS = {"glm": ("<|user|>", ""), "falcon": ("<|eos|>", " "), "solar": ("<|eos|>", "")}


@pytest.mark.parametrize("name", sorted(templates.ENDLESS))
def test_a_template_without_an_end_of_turn_gets_one_by_rule(with_template, name):
    chat_tokenizer, (end, blank) = with_template(name), ENDS[name]
    document = render(chat_tokenizer, TALK)
    assert learned_texts(chat_tokenizer, document) == [
        f"{blank}Blue it is.{end}",
        f"{blank}  Red.\n{end}",
    ]
    assert document.dropped_content == ()
    prompt = Renderer(RenderSettings(), chat_tokenizer).encode_prompt({"messages": TALK})
    assert document.ids[: len(prompt)].tolist() == prompt
    assert Renderer(RenderSettings(), chat_tokenizer).chat.notes()[0].startswith("it writes no end")


def test_an_answer_stops_at_the_ends_that_are_learned(with_template):
    from ftcli.models.decoding import find_stop_ids

    chat_tokenizer = with_template("glm")
    assert set(find_stop_ids(chat_tokenizer)) == set(
        chat_tokenizer.convert_tokens_to_ids(["<|eos|>", "<|user|>"])
    )


def test_the_date_is_that_of_the_run(with_template):
    chat_tokenizer = with_template(templates.DATED)
    renderer = Renderer(RenderSettings(date="2025-03-09"), chat_tokenizer)
    ((document,),) = renderer.tokenize_documents([{"messages": TALK}])
    prompt = renderer.encode_prompt({"messages": TALK})
    assert "Today: 09 March 2025<|im_end|>" in chat_tokenizer.decode(document.ids)
    assert document.ids[: len(prompt)].tolist() == prompt
    assert "data.date=2025-03-09" in renderer.chat.notes()[0]


def test_a_variable_of_the_template_may_be_set(with_template):
    opened = templates.CHATML.replace(
        "{{ '<|im_start|>assistant\n' }}",
        "{{ '<|im_start|>assistant\n' + ('' if enable_thinking is defined and not enable_thinking else '<think>') }}",
    )
    chat_tokenizer = with_template(opened)
    assert dropped_content(chat_tokenizer, TALK) == {"unlike_prompt", "earlier_prompt"}
    assert (
        dropped_content(chat_tokenizer, TALK, template_options={"enable_thinking": False}) == set()
    )


def test_tokens_that_a_tokenizer_puts_first_stand_first_in_plain_rows_and_prompts(with_template):
    from tokenizers.processors import TemplateProcessing

    chat_tokenizer = with_template("glm")
    first = chat_tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    chat_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[("[gMASK]", first[0]), ("<sop>", first[1])]
    )
    chat_tokenizer.bos_token = None
    renderer = Renderer(RenderSettings(), chat_tokenizer)
    for example in ({"prompt": "a", "completion": "b"}, {"text": "a b"}):
        ((document,),) = renderer.tokenize_documents([example])
        assert document.ids[:2].tolist() == first
    assert renderer.encode_prompt({"prompt": "a"})[:2] == first
    assert renderer.encode_beginning("a b") == chat_tokenizer("a b").input_ids
    ((document,),) = renderer.tokenize_documents([{"text": "a b"}])
    assert document.ids[:-1].tolist() == renderer.encode_beginning("a b")


def test_arguments_as_python_prints_them_are_given_as_json_text_instead(with_template):
    chat_tokenizer = with_template(
        templates.CALLS_OF_OBJECTS.replace("['arguments'] | tojson", "['arguments'] | string")
    )
    example = {"messages": CALLED, "tools": [TOOL]}
    ((document,),) = Renderer(RenderSettings(), chat_tokenizer).tokenize_documents([example])
    assert document.dropped_content == ()
    assert learned_texts(chat_tokenizer, document)[0] == f"<call>weather {WRITTEN}</call><|im_end|>"
