"""Whatever the template, exactly what the assistant wrote is learned, with the token that ends it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ftcli.core.errors import UserError
from ftcli.data.render import Renderer, RenderSettings
from ftcli.data.rows import RowError

from .. import templates


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


TALK = [user("Say blue."), assistant("Blue it is."), user("And red?"), assistant("  Red.\n")]

# What is learned of TALK: the texts of the two answers with their end-of-turn tokens.
LEARNED = {
    "chatml": ["Blue it is.<|im_end|>", "  Red.\n<|im_end|>"],
    "chatml_marked": ["Blue it is.<|im_end|>", "  Red.\n<|im_end|>"],
    "llama2": [" Blue it is. <|eos|>", " Red. <|eos|>"],
    "llama3": ["Blue it is.<|eot_id|>", "Red.<|eot_id|>"],
    "gemma": ["Blue it is.<end_of_turn>", "Red.<end_of_turn>"],
    "mistral": [" Blue it is.<|eos|>", " Red.<|eos|>"],
    "qwen3": ["Blue it is.<|im_end|>", "<think>\n\n</think>\n\n  Red.\n<|im_end|>"],
    "deepseek_r1": ["Blue it is.<|eos|>", "  Red.\n<|eos|>"],
    "phi": ["Blue it is.<|end|>", "  Red.\n<|end|>\n<|eos|>"],
    "zephyr": ["Blue it is.<|eos|>", "  Red.\n<|eos|>"],
    "vicuna": [" Blue it is.<|eos|>", "   Red.\n<|eos|>"],
}


def render(tokenizer, messages, **settings):
    renderer = Renderer(RenderSettings(**settings), tokenizer)
    (documents,) = renderer.tokenize_documents([{"messages": messages}])
    if isinstance(documents, RowError):
        raise documents
    return documents[0]


def learned_texts(tokenizer, document):
    """Return the text of each contiguous range of learned tokens."""
    stretches, current = [], []
    for token, learned in zip(document.ids.tolist(), document.loss_mask.tolist(), strict=True):
        if learned:
            current.append(token)
        elif current:
            stretches.append(current)
            current = []
    stretches += [current] if current else []
    return [tokenizer.decode(s) for s in stretches]


@pytest.mark.parametrize("name", sorted(templates.ALL))
def test_exactly_the_answers_are_learned(with_template, name):
    tokenizer = with_template(name)
    document = render(tokenizer, TALK)
    assert learned_texts(tokenizer, document) == LEARNED[name]


@pytest.mark.parametrize("name", sorted(templates.ALL))
def test_the_whole_is_what_the_template_renders(with_template, name):
    tokenizer = with_template(name)
    document = render(tokenizer, TALK)
    assert tokenizer.decode(document.ids) == tokenizer.apply_chat_template(TALK, tokenize=False)


@pytest.mark.parametrize("name", sorted(set(templates.ALL) - {"deepseek_r1"}))
def test_what_stands_before_the_last_answer_is_the_generation_prompt(with_template, name):
    tokenizer = with_template(name)
    talk = [user("Say blue."), assistant("Blue it is.")]
    document = render(tokenizer, talk)
    prompt = Renderer(RenderSettings(), tokenizer).encode_prompt({"messages": talk})
    first = document.loss_mask.tolist().index(1)
    assert document.ids[:first].tolist() == prompt
    whole = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True)["input_ids"]
    assert prompt == whole


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3", "phi", "zephyr", "vicuna"])
def test_a_system_message_is_context(with_template, name):
    tokenizer = with_template(name)
    document = render(tokenizer, TALK, system="Be brief.")
    text = tokenizer.decode(document.ids)
    assert "Be brief." in text
    assert learned_texts(tokenizer, document) == LEARNED[name]


def test_a_system_message_that_moves_is_still_context(with_template):
    tokenizer = with_template("mistral")
    document = render(tokenizer, TALK, system="Be brief.")
    assert learned_texts(tokenizer, document) == LEARNED["mistral"]
    assert tokenizer.decode(document.ids).index("Be brief.") > 20  # it stands in the last question


def test_qwen3_learns_the_thinking_it_shows_and_not_what_it_drops(with_template):
    tokenizer = with_template("qwen3")
    talk = [
        user("1+1?"),
        assistant("<think>\none and one\n</think>\n\n2"),
        user("2+2?"),
        assistant("<think>\ntwo and two\n</think>\n\n4"),
    ]
    document = render(tokenizer, talk)
    assert learned_texts(tokenizer, document) == [
        "2<|im_end|>",
        "<think>\ntwo and two\n</think>\n\n4<|im_end|>",
    ]


def test_deepseek_learns_the_answer_although_its_generation_prompt_opens_a_think_block(
    with_template,
):
    tokenizer = with_template("deepseek_r1")
    talk = [user("1+1?"), assistant("<think>\none\n</think>2"), user("So?"), assistant("Two.")]
    document = render(tokenizer, talk)
    assert learned_texts(tokenizer, document) == ["2<|eos|>", "Two.<|eos|>"]


def test_a_conversation_that_begins_with_the_assistant(with_template):
    tokenizer = with_template("chatml")
    document = render(tokenizer, [assistant("Hello!"), user("Hi."), assistant("Bye.")])
    assert learned_texts(tokenizer, document) == ["Hello!<|im_end|>", "Bye.<|im_end|>"]


def test_an_answer_that_merges_with_the_prompt_is_cut_from_it(tokenizer):
    """Prompt and answer must not share a token, even where the tokenizer would merge them."""
    import copy

    chat_tokenizer = copy.deepcopy(tokenizer)
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    talk = [user("hi"), assistant("hello")]
    joined = chat_tokenizer(
        chat_tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False
    ).input_ids
    document = render(chat_tokenizer, talk)
    prompt = Renderer(RenderSettings(), chat_tokenizer).encode_prompt({"messages": talk})
    assert document.ids.tolist() != joined  # the tokenizer does merge the blank
    assert document.ids[: len(prompt)].tolist() == prompt
    assert learned_texts(chat_tokenizer, document) == ["hello<|eos|>"]
    assert not document.loss_mask[: len(prompt)].any()


def test_the_template_may_refuse_a_row(with_template):
    with pytest.raises(RowError, match="System role not supported"):
        render(with_template("gemma"), TALK, system="Be brief.")
    with pytest.raises(RowError, match="alternate"):
        render(with_template("llama2"), [user("a"), user("b"), assistant("c")])


def test_a_row_without_an_answer_has_nothing_to_learn(with_template):
    with pytest.raises(RowError, match="nothing to learn"):
        render(with_template("chatml"), [user("a")])


def test_without_a_template_there_is_one_message(tokenizer):
    import copy

    chat_tokenizer = copy.deepcopy(tokenizer)
    chat_tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"no chat template"):
        render(chat_tokenizer, TALK)


def test_mask_all_learns_everything_but_the_first_token(with_template):
    document = render(with_template("llama3"), TALK, train_on="all")
    assert document.loss_mask.tolist() == [0] + [1] * (len(document.ids) - 1)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<>|\x00"), max_size=20)
TURNS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TURNS, st.sampled_from(["chatml", "chatml_marked", "zephyr", "gemma", "vicuna"]))
def test_whatever_is_said_exactly_the_answers_are_learned(with_template, turns, name):
    assume(any(answer.strip() for _, answer in turns))
    tokenizer = with_template(name)
    talk = [m for asked, answer in turns for m in (user(asked), assistant(answer))]
    document = render(tokenizer, talk)
    end = {"chatml": "<|im_end|>", "chatml_marked": "<|im_end|>", "gemma": "<end_of_turn>"}
    begin = " " if name == "vicuna" else ""
    answers = [text.strip() if name == "gemma" else text for _, text in turns]
    assert learned_texts(tokenizer, document) == [
        begin + text + end.get(name, "<|eos|>") for text in answers
    ]
    prompt = Renderer(RenderSettings(), tokenizer).encode_prompt({"messages": talk[:2]})
    assert document.ids[: len(prompt)].tolist() == prompt


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(WORDS, WORDS.filter(str.strip), st.sampled_from([None, "Q: {prompt} A:", "{prompt}"]))
def test_plain_rows_learn_exactly_the_completion(tokenizer, asked, answer, template):
    renderer = Renderer(RenderSettings(prompt_template=template), tokenizer)
    example = {"prompt": asked, "completion": answer}
    ((document,),) = renderer.tokenize_documents([example])
    assert learned_texts(tokenizer, document) == [answer + "<|eos|>"]
    prompt = renderer.encode_prompt(example)
    assert document.ids[: len(prompt)].tolist() == prompt
    assert not document.loss_mask[: len(prompt)].any()
