"""Groups in training alone, packed and padded, with grouped keys; which tensors train; counts; merging."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ftcli.core.errors import UserError
from ftcli.models.anatomy import count_parameters
from ftcli.models.attention_layout import pack_inputs
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.longlora.model import ShortGroupsSource
from tests.methods.tiny import load, method, train, trainable, write_llama

IDS = torch.arange(3, 35)[None]  # one row of 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def source(folder, **options):
    return ShortGroupsSource(str(folder), **options)


def packed(*lengths):
    ids = IDS[:, : sum(lengths)]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    row = {"input_ids": ids, "position_ids": positions, "lengths": torch.tensor(lengths)}
    return pack_inputs(row)


@torch.no_grad()
def states(model, training, **inputs):
    return model.train(training).model(**inputs).last_hidden_state[:, : IDS.shape[1]]


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_packed_and_padded_rows_attend_alike_in_training(folder, attention):
    """The llama has 4 heads and 2 for keys; layers see what came out of groups of the layer before."""
    expected = states(source(folder).load("cpu"), True, **packed(32))
    model = source(folder, attention=attention).load("cpu")
    padded = states(model, True, input_ids=IDS, attention_mask=torch.ones_like(IDS))
    assert (padded - expected).abs().max() < 1e-5
    assert (states(model, True, input_ids=IDS) - expected).abs().max() < 1e-5


def test_padding_changes_nothing(folder):
    model = source(folder).load("cpu")
    rows = torch.cat([IDS, IDS])
    mask = torch.ones_like(rows)
    mask[1, 20:] = 0
    out = states(model, True, input_ids=rows, attention_mask=mask)
    assert (out[1, :20] - states(model, True, input_ids=IDS[:, :20])[0]).abs().max() < 1e-5
    two = states(model, True, **packed(20, 12))
    assert (two[0, :20] - out[1, :20]).abs().max() < 1e-5


def test_evaluation_is_full_attention_to_the_bit(folder):
    plain, grouped = CausalLMSource(str(folder)).load("cpu"), source(folder).load("cpu")
    for inputs in (packed(32), {"input_ids": IDS}):
        assert torch.equal(states(grouped, False, **inputs), states(plain, False, **inputs))
        assert (states(grouped, True, **inputs) - states(plain, True, **inputs)).abs().max() > 1e-2


def test_groups_none_trains_with_full_attention(folder):
    plain, model = (
        CausalLMSource(str(folder)).load("cpu"),
        source(folder, groups="none").load("cpu"),
    )
    assert torch.equal(states(model, True, **packed(32)), states(plain, True, **packed(32)))


def test_the_last_token_changes_nothing_before_it(folder):
    model = source(folder).load("cpu")
    other = packed(32)
    other["input_ids"] = other["input_ids"].clone()
    other["input_ids"][0, 31] = 99
    difference = states(model, True, **packed(32)) - states(model, True, **other)
    assert difference[:, :-1].abs().max() == 0 and difference[:, -1].abs().max() > 1e-3


def reach(model, token):
    """First and last token whose training state changes with a token."""
    other = packed(32)
    other["input_ids"] = other["input_ids"].clone()
    other["input_ids"][0, token] = 99
    difference = states(model, True, **packed(32)) - states(model, True, **other)
    changed = difference[0].abs().amax(-1).nonzero().flatten()
    return changed.min().item(), changed.max().item()


def test_half_a_group_a_layer_is_how_far_information_goes(folder):
    """Groups of 8, two layers: shifted heads carry token 6 to 11 and plain ones on to 15; without a shift 7."""
    assert reach(source(folder).load("cpu"), 6) == (6, 15)
    assert reach(source(folder, groups="plain").load("cpu"), 6) == (6, 7)


def test_recomputed_blocks_give_the_same_gradients(folder):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = method("longlora").prepare(source(folder).load("cpu")).train()
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model(**packed(32)).logits.square().mean().backward()
        gradients.append({n: p.grad for n, p in trainable(model).items()})
    assert all(torch.allclose(g, gradients[1][n], atol=1e-6) for n, g in gradients[0].items())
    assert all(
        g is not None and g.abs().sum() > 0 for n, g in gradients[0].items() if "lora_A" not in n
    )


def test_layers_of_windows_are_refused(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 64,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
    config = Qwen3Config(**sizes, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sliding_attention") as caught:
        source(tmp_path).load("cpu")
    assert caught.value.fix == "model.groups=none"


def test_a_share_beyond_the_row_is_refused(folder):
    with pytest.raises(UserError, match=r"1\.5 of a row"):
        source(folder, group_ratio=1.5)


def test_exactly_lora_embeddings_and_norms_train(folder):
    model = method("longlora").prepare(load(folder))
    names = {n.removeprefix("base_model.model.") for n in trainable(model)}
    whole = {n for n in names if "lora_" not in n}
    layers = [f"model.layers.{i}.{norm}" for i in (0, 1)
              for norm in ("input_layernorm", "post_attention_layernorm")]  # fmt: skip
    expected = [
        "model.embed_tokens",
        *layers,
        "model.norm",
    ]  # the last one has no suffix `layernorm`
    assert whole == {f"{n}.modules_to_save.default.weight" for n in expected}
    assert {n.split(".")[4] for n in names - whole} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_counts_of_the_papers_model_without_weights():
    def count(**options):
        meta = CausalLMSource("owner/name", architecture="llama2_7b").build_meta_model()
        return count_parameters(method("longlora", **options).prepare(meta), trainable_only=True)

    lora = count(also_train=[])
    assert lora == 8_388_608
    assert count(also_train=["embed"]) - lora == 131_072_000
    assert count(also_train=["norm"]) - lora == 266_240


def test_a_word_that_no_parameter_has_is_refused(folder):
    with pytest.raises(UserError, match="'nrom' is in no name"):
        method("longlora", also_train=["nrom"]).prepare(load(folder))


def test_a_tied_head_stays_frozen_and_merging_keeps_it_apart(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(write_llama(tmp_path))
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.save_pretrained(tmp_path)
    how, model = method("longlora"), load(tmp_path)
    head = model.lm_head.weight.detach().clone()
    model = how.prepare(model)
    train(model)
    model.eval()
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        merged = how.merge(model)
        assert (merged(input_ids=IDS).logits - before).abs().max() < 1e-4
    assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
    assert torch.equal(merged.lm_head.weight, head)
    assert (merged.model.embed_tokens.weight - head).abs().max() > 1e-3
