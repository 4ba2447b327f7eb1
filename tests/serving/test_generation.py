"""Programs that know nothing of ftcli end an answer where `ftcli chat` ends it, and say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.deltas.merge import merge_run
from ftcli.models.generation import save_generation
from ftcli.models.hub import resolve
from ftcli.serving.chat import Chat

EOS, IM_END = 2, 4  # of the shipped tokenizer: the base's own end, and that of its chat template


@pytest.fixture(scope="module")
def spoken(tuned, answers) -> dict[str, str]:
    """What `ftcli chat` answers; each stands alone."""
    bot, replies = Chat.open(tuned, max_new_tokens=40), {}
    for ask in answers:
        bot.reset()
        replies[ask] = bot.say(ask)
    return replies


@pytest.fixture(scope="module")
def merged(tuned, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "model"
    merge_run(tuned, folder)
    return folder


def ends(folder: Path, name: str = "generation_config.json") -> object:
    return json.loads((folder / name).read_text())["eos_token_id"]


def test_the_answers_were_learned_with_their_end(spoken, answers):
    assert spoken == answers


def test_artefacts_name_the_ends_of_the_base_and_those_that_were_learned(tuned, merged):
    assert ends(tuned / "adapter") == [EOS, IM_END]
    assert ends(merged) == ends(merged, "config.json") == [EOS, IM_END]
    for folder in (tuned / "adapter", merged):
        assert (folder / "tokenizer.json").exists() and (folder / "chat_template.jinja").exists()


def test_generate_on_the_merged_folder_says_what_chat_says(merged, spoken):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(merged)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    for ask, answer in spoken.items():
        assert answered(model, tokenizer, ask) == answer + "<|im_end|>"


def test_a_pipeline_on_the_merged_folder_says_what_chat_says(merged, spoken):
    from transformers import pipeline

    program = pipeline("text-generation", model=str(merged), max_new_tokens=40, do_sample=False)
    conversations = [[{"role": "user", "content": ask}] for ask in spoken]
    for batch in (1, 2):
        outputs = program(conversations, batch_size=batch)
        assert [row[0]["generated_text"][-1]["content"] for row in outputs] == list(spoken.values())


def test_peft_with_the_settings_beside_the_adapter_says_what_chat_says(tuned, spoken):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    folder = tuned / "adapter"
    plain = AutoModelForCausalLM.from_pretrained(resolve("asset:llama_mini"))
    model = PeftModel.from_pretrained(plain, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = GenerationConfig.from_pretrained(folder)
    for ask, answer in spoken.items():
        assert answered(model, tokenizer, ask, generation_config=settings) == answer + "<|im_end|>"


def test_settings_that_the_library_refuses_to_save_edited_are_kept(base, tmp_path):
    """Published bases hold a temperature without sampling; merging one must not fail on it."""
    from transformers import GenerationConfig

    model, tokenizer = base
    settings = {"do_sample": False, "temperature": 0.6, "eos_token_id": [7, EOS]}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    model.generation_config = GenerationConfig.from_pretrained(tmp_path)
    save_generation(model, tokenizer, tmp_path / "saved")
    assert ends(tmp_path / "saved") == [7, EOS, IM_END]
    assert json.loads((tmp_path / "saved/generation_config.json").read_text())["temperature"] == 0.6


def test_what_ends_only_with_its_own_token_keeps_the_number(base, tmp_path):
    model, tokenizer = base
    tokenizer.chat_template = None
    save_generation(model, tokenizer, tmp_path)
    assert ends(tmp_path) == EOS


@pytest.fixture
def base() -> tuple[Any, Any]:
    """The shipped model and its tokenizer, as the library loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve("asset:llama_mini")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def answered(model, tokenizer, ask: str, **options) -> str:
    """Greedy answer with its end, as any script would get it."""
    turns = [{"role": "user", "content": ask}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=40, do_sample=False, **options)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
