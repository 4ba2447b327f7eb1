"""Loading a causal model: storage, rotary scaling, tokenizer, and where its files come from."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import GPT2Config

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.models.attention import NAME
from ftcli.models.causal_lm import CausalLMSource

IDS = torch.arange(3, 43)[None]
MINI = "asset:llama_mini"


@torch.no_grad()
def logits(model, **inputs):
    return model(input_ids=IDS, **inputs).logits


@pytest.fixture(scope="module")
def plain():
    return CausalLMSource(MINI).load("cpu")


@pytest.fixture(scope="module")
def changed_config(tmp_path_factory):
    """A function that writes the shipped model's files with another config.json or tokenizer."""
    from ftcli.models.hub import resolve

    def write(config=None, **options):
        folder = tmp_path_factory.mktemp("model")
        source = CausalLMSource(MINI)
        tokenizer = source.load_tokenizer()
        (config or source.hf_config()).save_pretrained(folder)
        for key, value in options.items():
            setattr(tokenizer, key, value)
        tokenizer.save_pretrained(folder)
        assert resolve(str(folder)) == str(folder)
        return str(folder)

    return write


@pytest.mark.parametrize(
    ("quantization", "kind"), [("nf4", Linear4bit), ("fp4", Linear4bit), ("int8", Linear8bitLt)]
)
def test_only_the_linears_of_the_blocks_are_quantised(plain, quantization, kind):
    model = CausalLMSource(MINI, quantization=quantization).load("cpu")
    stored = {name for name, module in model.named_modules() if isinstance(module, kind)}
    assert stored == {linear.name for linear in Anatomy(plain).block_linears}
    for name in ("model.embed_tokens", "model.norm", "model.layers.0.input_layernorm"):
        assert torch.equal(model.get_submodule(name).weight, plain.get_submodule(name).weight)
    assert Anatomy(model).tied
    difference = (logits(model) - logits(plain)).abs().max().item()
    assert 0.01 < difference < 0.3 * logits(plain).abs().max().item()


def test_quantisations_are_ordered_by_their_error(plain):
    """QLoRA card, check (b): NF4 with or without double quantisation before FP4; 8 bits best."""
    reference = logits(plain).log_softmax(-1)
    errors = {}
    for name, options in {
        "int8": {"quantization": "int8"},
        "nf4": {"quantization": "nf4", "double_quant": False},
        "nf4+dq": {"quantization": "nf4"},
        "fp4": {"quantization": "fp4"},
    }.items():
        own = logits(CausalLMSource(MINI, **options).load("cpu")).log_softmax(-1)
        errors[name] = (reference.exp() * (reference - own)).sum(-1).mean().item()
    assert errors["int8"] < errors["nf4"] < errors["fp4"]
    assert errors["nf4+dq"] == pytest.approx(errors["nf4"], rel=0.1)


def test_double_quantisation_and_compute_dtype_reach_the_layers():
    model = CausalLMSource(
        MINI, quantization="nf4", double_quant=False, compute_dtype="bfloat16"
    ).load()
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert {layer.weight.quant_state.nested for layer in layers} == {False}
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    model = CausalLMSource(MINI, quantization="nf4").load("cpu")
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert {layer.weight.quant_state.nested for layer in layers} == {True}
    assert {layer.compute_dtype for layer in layers} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_that_of_the_weights(dtype):
    model = CausalLMSource(MINI, dtype=dtype).load("cpu")
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not model.training


def test_auto_dtype_without_a_run_is_as_stored():
    assert CausalLMSource(MINI, dtype="auto").load("cpu").dtype == torch.bfloat16
    assert CausalLMSource(MINI, dtype="auto").build_meta_model().dtype == torch.bfloat16


def test_auto_attention_is_the_packed_one_and_others_are_as_named(plain):
    assert plain.config._attn_implementation == NAME
    eager = CausalLMSource(MINI, attention="eager").load("cpu")
    assert eager.config._attn_implementation == "eager"
    assert (logits(eager) - logits(plain)).abs().max() < 1e-4


def test_linear_rope_scaling_divides_the_positions(plain):
    scaled = CausalLMSource(MINI, rope_scaling={"rope_type": "linear", "factor": 2}).load("cpu")
    positions = torch.arange(IDS.shape[1])[None]
    assert (logits(scaled) - logits(plain)).abs().max() > 0.1
    doubled = logits(scaled, position_ids=2 * positions)
    assert (doubled - logits(plain, position_ids=positions)).abs().max() < 1e-4
    assert scaled.config.rope_parameters["rope_theta"] == 10000.0


def test_other_kinds_of_rope_scaling_load():
    for options in (
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ):
        model = CausalLMSource(MINI, rope_scaling=options).load("cpu")
        assert model.config.rope_parameters["rope_type"] == options["rope_type"]
        assert torch.isfinite(logits(model)).all()


def test_rope_scaling_that_does_not_fit_is_refused(changed_config):
    with pytest.raises(UserError) as caught:
        CausalLMSource(MINI, rope_scaling={"rope_type": "linaer", "factor": 2}).hf_config()
    assert caught.value.where == "model.rope_scaling" and "linaer" in caught.value.what
    with pytest.raises(UserError, match="factor"):
        CausalLMSource(MINI, rope_scaling={"rope_type": "linear"}).hf_config()
    folder = changed_config(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=4096))
    with pytest.raises(UserError, match="no rotary position embedding"):
        CausalLMSource(folder, rope_scaling={"rope_type": "linear", "factor": 2}).hf_config()


def test_meta_has_every_shape_and_no_memory():
    meta = CausalLMSource(
        "owner/name", architecture="llama3_8b", dtype="bfloat16"
    ).build_meta_model()
    assert sum(p.numel() for p in meta.parameters()) == 8_030_261_248
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    assert {p.dtype for p in meta.parameters()} == {torch.bfloat16}
    assert not any(
        isinstance(m, Linear4bit)
        for m in CausalLMSource(MINI, quantization="nf4").build_meta_model().modules()
    )


def test_the_shipped_tokenizer_and_its_template_work_offline():
    tokenizer = CausalLMSource(MINI).load_tokenizer()
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n"


def test_the_chat_template_can_be_given_as_text_or_file(tmp_path):
    template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    file = tmp_path / "template.jinja"
    file.write_text(template)
    for given in (template, str(file)):
        tokenizer = CausalLMSource(MINI, chat_template=given).load_tokenizer()
        messages = [{"role": "user", "content": "hi"}]
        assert tokenizer.apply_chat_template(messages, tokenize=False) == "[hi]"
    with pytest.raises(UserError, match="neither a Jinja template nor a file"):
        CausalLMSource(MINI, chat_template="missing.jinja").load_tokenizer()


def test_padding_is_a_token_that_exists(changed_config):
    own = CausalLMSource(MINI).load_tokenizer()
    reserved = CausalLMSource(changed_config(pad_token=None)).load_tokenizer()
    assert len(reserved) == len(own)
    assert reserved.pad_token == "<|pad|>"


def test_without_a_reserved_one_the_end_of_text_pads():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from ftcli.models.tokenizer import complete_tokenizer

    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    bare = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    assert complete_tokenizer(bare, None).pad_token == "</s>"
    known = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    assert complete_tokenizer(known, None).pad_token == "<unk>"
    with pytest.raises(UserError, match="no padding, unknown or end token"):
        complete_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words), None)


def test_a_tokenizer_larger_than_the_embeddings_is_refused(changed_config):
    config = CausalLMSource(MINI).hf_config()
    config.vocab_size = 1000
    with pytest.raises(
        UserError, match="up to 4095, .* has 1000 embeddings; the table is not resized"
    ):
        CausalLMSource(changed_config(config)).load_tokenizer()


def test_another_tokenizer_can_be_named(changed_config):
    folder = changed_config(padding_side="left")
    assert CausalLMSource(MINI, tokenizer=folder).load_tokenizer().padding_side == "left"


def test_an_architecture_that_does_not_ship_is_refused():
    with pytest.raises(UserError, match="no architecture 'llama9'"):
        CausalLMSource("owner/name", architecture="llama9").hf_config()
