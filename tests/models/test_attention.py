"""A packed row gives every document the states it has alone, on models of different make."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from ftcli.models import attention
from ftcli.models.attention_kernels import AttentionSettings, attend
from ftcli.models.attention_layout import pack_inputs

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
GROUPED = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0}
MODELS = {
    "llama": lambda: tf.LlamaConfig(**GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**GROUPED, head_dim=8),
    "mistral_window": lambda: tf.MistralConfig(**GROUPED, sliding_window=4, head_dim=8),
    "phi3_fused_qkv": lambda: tf.Phi3Config(**GROUPED),
    "gemma2_softcap_window": lambda: tf.Gemma2Config(
        **GROUPED, head_dim=8, sliding_window=4, query_pre_attn_scalar=8
    ),
    "gpt2": lambda: tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64),
}
LENGTHS = (5, 9, 9, 1, 12)


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    torch.manual_seed(0)
    config = MODELS[request.param]()
    config._attn_implementation = attention.NAME
    return tf.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def documents():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 64, (1, n), generator=generator) for n in LENGTHS]


def pack(documents):
    batch = {
        "input_ids": torch.cat(documents, dim=1),
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "lengths": torch.tensor(LENGTHS),
    }
    return {**pack_inputs(batch), "use_cache": False}


@torch.no_grad()
def test_packed_equals_alone(model, documents):
    packed = model(**pack(documents)).logits[:, : sum(LENGTHS)]
    model.set_attn_implementation("eager")
    alone = torch.cat([model(input_ids=d).logits for d in documents], dim=1)
    assert (packed - alone).abs().max() < 1e-5


@torch.no_grad()
def test_packing_is_not_a_matter_of_course(model, documents):
    """Without the lengths the second document would see the first: the test above can fail."""
    inputs = pack(documents)
    packed = model(**inputs).logits
    joined = model(input_ids=inputs["input_ids"], position_ids=None, use_cache=False).logits
    packed, joined = packed[:, : sum(LENGTHS)], joined[:, : sum(LENGTHS)]
    assert (packed - joined)[:, LENGTHS[0] :].abs().max() > 1e-3


@torch.no_grad()
def test_padded_batches_go_the_library_way(model, documents):
    """Generation and padded evaluation use ordinary masks under the same attention name."""
    ids = torch.zeros(2, 12, dtype=torch.long)
    mask = torch.zeros(2, 12, dtype=torch.long)
    for row, document in enumerate((documents[1], documents[4])):
        ids[row, -document.shape[1] :], mask[row, -document.shape[1] :] = document[0], 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ours = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    model.set_attn_implementation("eager")
    alone = model(input_ids=documents[1]).logits
    assert (ours[0, -9:] - alone[0]).abs().max() < 1e-5


def test_gradients_are_those_of_the_documents_alone(model, documents):
    weight = model.get_input_embeddings().weight

    def gradient(loss):
        return torch.autograd.grad(loss, weight)[0]

    packed = gradient(model(**pack(documents)).logits[:, : sum(LENGTHS)].square().sum())
    model.set_attn_implementation("eager")
    alone = sum(gradient(model(input_ids=d).logits.square().sum()) for d in documents)
    assert (packed - alone).abs().max() < 1e-4 * alone.abs().max()


def test_a_model_that_loses_the_lengths_is_refused():
    x = torch.zeros(1, 2, 6, 8)
    ids = torch.zeros(1, 6, dtype=torch.long)
    batch = {"input_ids": ids, "position_ids": ids, "lengths": torch.tensor([3, 3])}
    dummy = pack_inputs(batch)["attention_mask"]
    with pytest.raises(RuntimeError, match="packing=none"):
        attention.documents_attention(torch.nn.Module(), x, x, x, dummy)


@torch.no_grad()
def test_sinks_are_the_librarys_formula():
    """softmax over the scores and one more logit a head, whose share goes nowhere (gpt-oss)."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 6)
    sinks, seen = torch.randn(4), torch.ones(7, 7).tril().bool()
    scores = (q @ k.mT * 0.3).masked_fill(~seen, -torch.inf)
    scores = torch.cat([scores, sinks.view(1, 4, 1, 1).expand(2, 4, 7, 1)], -1)
    expected = scores.softmax(-1)[..., :-1] @ v
    how = AttentionSettings(scaling=0.3, sinks=sinks)
    for mask in (None, seen, torch.zeros(7, 7).masked_fill(~seen, -torch.inf)):
        assert (attend(q, k, v, mask, how) - expected).abs().max() < 1e-6


@torch.no_grad()
def test_capped_scores_are_causal_without_a_mask_and_see_all_of_a_cache():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 8) for _ in range(3))
    whole, _ = attention.documents_attention(torch.nn.Module(), q, k, v, None, softcap=2.0)
    first, _ = attention.documents_attention(
        torch.nn.Module(), q[:, :, :3], k[:, :, :3], v[:, :, :3], None, softcap=2.0
    )
    last, _ = attention.documents_attention(torch.nn.Module(), q[:, :, 5:], k, v, None, softcap=2.0)
    assert (whole[:, :3] - first).abs().max() < 1e-6
    assert (whole[:, 5:] - last).abs().max() < 1e-6


def test_a_keyword_that_is_not_known_is_refused():
    x = torch.zeros(1, 2, 6, 8)
    with pytest.raises(NotImplementedError, match="indices"):
        attention.documents_attention(torch.nn.Module(), x, x, x, None, indices=x)


LOCAL = {
    "llama4_chunks": tf.Llama4TextConfig(
        **GROUPED, head_dim=8, attention_chunk_size=4, num_local_experts=2, intermediate_size_mlp=48,
        layer_types=["chunked_attention", "full_attention"], no_rope_layers=[1, 0],
    ),
    "phimoe_window": tf.PhimoeConfig(**GROUPED, sliding_window=4, num_local_experts=2),
    "gpt_oss_sinks": tf.GptOssConfig(
        **GROUPED, head_dim=8, sliding_window=4, num_local_experts=2, num_experts_per_tok=1,
        layer_types=["sliding_attention", "full_attention"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
@torch.no_grad()
def test_what_only_the_mask_restricts_is_kept_within_each_document(name, documents):
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(LOCAL[name]).eval()
    for parameter_name, weight in model.named_parameters():
        weight.normal_(std=1.0 if "sinks" in parameter_name else 0.2)
    alone = torch.cat([model(input_ids=d).logits for d in documents], dim=1)
    attention.install_document_attention(model)
    packed = model(**pack(documents)).logits[:, : sum(LENGTHS)]
    assert (packed - alone).abs().max() < 1e-4 * alone.abs().max()
    for single in documents:
        attention.set_attention(model, "library")
        expected = model(input_ids=single).logits
        attention.set_attention(model, "documents")
        gap = model(input_ids=single).logits - expected
        assert gap.abs().max() < 1e-4 * expected.abs().max()
