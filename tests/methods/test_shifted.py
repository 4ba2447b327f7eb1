"""A part taken out of the base: the function stays, a checkpoint is enough, the export is plain."""

import copy

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ftcli.core.errors import UserError
from ftcli.methods.peft import ADAPTER
from ftcli.methods.shifted import ShiftedLora, lora_layers, weight_of

from .small_run import small_run
from .tiny import HEADS, SIZES, load, logits, train, trainable, write_llama

NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


class Drawn(ShiftedLora):
    """Factors from a seed; `skip` names layers that keep LoRA's own start."""

    skip, seed = "", 5

    def factors(self, run, layers):
        generator = torch.Generator().manual_seed(self.seed)
        for name, layer in layers.items():
            r, (rows, columns) = layer.r[ADAPTER], weight_of(layer).shape
            a = torch.randn(r, columns, generator=generator) / columns**0.5
            b = torch.randn(rows, r, generator=generator) / rows**0.5
            if not self.skip or self.skip not in name:
                yield name, a, b


class Source:
    """Gives the same base again and again."""

    def __init__(self, make):
        self.base, self.loads = make(), 0

    def load(self, device=None):
        self.loads += 1
        return copy.deepcopy(self.base)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=128, **NONE))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = write_llama(tmp_path_factory.mktemp("llama"))
    return {
        "llama": Source(lambda: load(folder)),
        "bfloat16": Source(lambda: load(folder, dtype="bfloat16")),
        "gpt2": Source(lambda: gpt2().eval()),
    }


def start(source, cls=Drawn, **options):
    torch.manual_seed(1)
    method = cls(**{"r": 4, "lora_alpha": 6} | options)
    model = method.prepare(source.load())
    method.setup(small_run(model, source))
    return method, model


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_the_base_is_less_exactly_what_the_adapter_adds(sources, kind, options):
    source = sources[kind]
    method, model = start(source, **options)
    assert (logits(model) - logits(source.base)).abs().max() < 1e-5
    scale = 6 / 4**0.5 if options else 6 / 4
    original = dict(source.base.named_modules())
    layers = lora_layers(model)
    assert len(layers) == (14 if kind == "llama" else 8)
    for name, layer in layers.items():
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        weight = original[name.removeprefix("base_model.model.")].weight
        weight = weight.T if kind == "gpt2" else weight
        assert b.abs().max() > 0.01
        assert torch.equal(weight_of(layer), weight - scale * (b @ a))
    assert not method.keeps_base
    with model.disable_adapter():
        assert (logits(model) - logits(source.base)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["llama", "bfloat16", "gpt2"])
def test_a_checkpoint_is_enough_for_a_fresh_base(sources, kind):
    method, model = start(sources[kind])
    train(model)
    state = {name: t.clone() for name, t in method.get_trained_tensors(model).items()}
    assert len(state) == 2 * len(trainable(model))
    fresh = copy.deepcopy(method)
    other = fresh.prepare(sources[kind].load())
    objects = {name: id(p) for name, p in trainable(other).items()}
    fresh.load_trained_tensors(other, state)
    assert {name: id(p) for name, p in trainable(other).items()} == objects
    assert torch.equal(logits(other), logits(model))
    again = fresh.get_trained_tensors(other)
    assert again.keys() == state.keys()
    assert all(torch.equal(t, again[name]) for name, t in state.items())


@pytest.mark.parametrize("kind", ["llama", "bfloat16"])
def test_loading_over_another_shift_is_exact(sources, kind):
    """As where another machine, or another order of a GPU's sums, gives other factors at resume."""
    method, model = start(sources[kind])
    train(model)
    other_method, other = start(sources[kind], type("Other", (Drawn,), {"seed": 6}))
    assert not torch.equal(logits(other), logits(model))
    loads = sources[kind].loads
    other_method.load_trained_tensors(other, method.get_trained_tensors(model))
    assert torch.equal(logits(other), logits(model)) and sources[kind].loads == loads + 1
    other_method.load_trained_tensors(other, method.get_trained_tensors(model))  # nothing to do
    assert torch.equal(logits(other), logits(model)) and sources[kind].loads == loads + 1


def test_without_its_source_the_old_shift_is_added_back(sources):
    method, model = start(sources["llama"])
    loaded, other = Drawn(r=4, lora_alpha=6), sources["llama"].load()
    other = loaded.prepare(other)
    loaded.load_trained_tensors(other, method.get_trained_tensors(model))
    second, third = start(sources["llama"], type("Other", (Drawn,), {"seed": 6}))
    loaded.load_trained_tensors(other, second.get_trained_tensors(third))
    assert (logits(other) - logits(third)).abs().max() < 1e-5


def test_setting_up_twice_changes_nothing(sources):
    method, model = start(sources["llama"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    method.setup(small_run(model, sources["llama"]))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


PATTERNS = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5, "up_proj": 3}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True}),
        ("llama", PATTERNS),
        ("llama", PATTERNS | {"use_rslora": True}),
        ("gpt2", {}),
    ],
)
def test_what_is_saved_is_a_lora_of_twice_the_rank_on_the_untouched_base(
    sources, kind, options, tmp_path
):
    method, model = start(sources[kind], **options)
    train(model)
    trained, config = logits(model), copy.deepcopy(model.peft_config[ADAPTER])
    method.save(model, tmp_path)
    assert model.peft_config[ADAPTER] == config and torch.equal(logits(model), trained)
    loaded = peft.PeftModel.from_pretrained(sources[kind].load(), tmp_path)
    assert loaded.peft_config[ADAPTER].r == 8
    assert (logits(loaded) - trained).abs().max() < 1e-5
    assert (logits(loaded) - logits(sources[kind].base)).abs().max() > 1e-2


def test_a_fresh_adapter_is_saved_as_no_change(sources, tmp_path):
    method, model = start(sources["llama"])
    method.save(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(sources["llama"].load(), tmp_path)
    assert (logits(loaded) - logits(sources["llama"].base)).abs().max() < 1e-5


def test_modules_to_save_and_layers_left_out_travel_too(sources, tmp_path):
    cls = type("Partly", (Drawn,), {"skip": "down_proj"})
    method, model = start(sources["llama"], cls, modules_to_save=["lm_head"])
    down = [layer for name, layer in lora_layers(model).items() if "down_proj" in name]
    assert down and all(not layer.lora_B[ADAPTER].weight.any() for layer in down)
    train(model)
    fresh = copy.deepcopy(method)
    other = fresh.prepare(sources["llama"].load())
    fresh.load_trained_tensors(other, method.get_trained_tensors(model))
    assert torch.equal(logits(other), logits(model))
    method.save(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(sources["llama"].load(), tmp_path)
    assert (logits(loaded) - logits(model)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_merged_it_is_a_plain_model(sources, kind):
    method, model = start(sources[kind])
    train(model)
    trained = logits(model)
    merged = method.merge(model)
    names = {name for name, _ in sources[kind].base.named_parameters()}
    assert {name for name, _ in merged.named_parameters()} == names
    assert (logits(merged) - trained).abs().max() < 1e-5


def test_the_description_says_that_the_base_is_shifted(sources):
    method, model = start(sources["llama"])
    assert method.describe()["r"] == 4 and "initial." in method.describe()["shifted"]
    plain = Drawn(r=4)
    plain.prepare(sources["llama"].load())
    assert "shifted" not in plain.describe()


def test_a_state_with_half_a_shift_is_refused(sources):
    method, model = start(sources["llama"])
    state = method.get_trained_tensors(model)
    first = next(name for name in state if name.startswith("initial."))
    with pytest.raises(UserError, match="lacks 'initial."):
        method.load_trained_tensors(model, {n: t for n, t in state.items() if n != first})
    with pytest.raises(UserError, match="unknown tensor 'initial.elsewhere"):
        method.load_trained_tensors(model, state | {"initial.elsewhere": torch.zeros(1)})
    assert method.get_trained_tensors(model).keys() == state.keys()


def tied():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"target_modules": ["lm_head", "q_proj"]}, "lm_head shares its weight"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens is not a linear layer"),
    ],
)
def test_what_cannot_be_shifted_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        Drawn(**options).prepare(tied())


def test_a_quantised_base_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not work on quantised weights"):
        Drawn(r=4).prepare(load(write_llama(tmp_path), "nf4"))
