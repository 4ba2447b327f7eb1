"""Losses at labels only, in chunks, equal the library's plain loss in value and gradient."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch.nn.functional import cross_entropy

from ftcli.models import attention
from ftcli.objectives.causal_lm import NextTokenPrediction, find_supervised

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96,
    "intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
MODELS = {
    "llama": lambda: tf.LlamaConfig(**SMALL),
    "llama_tied": lambda: tf.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "gemma2_capped": lambda: tf.Gemma2Config(
        **SMALL, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=0.5
    ),
    "cohere_scaled": lambda: tf.CohereConfig(**SMALL, logit_scale=0.3, eos_token_id=1),
    "granite_scaled": lambda: tf.GraniteConfig(**SMALL, logits_scaling=3.0),
    "gpt2": lambda: tf.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=96, n_positions=64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
}  # fmt: skip
LENGTHS = [7, 12, 3]


def build(name):
    torch.manual_seed(0)
    config = MODELS[name]()
    config._attn_implementation = attention.NAME
    return tf.AutoModelForCausalLM.from_config(config).train()


def rows():
    """Documents of token ids and labels; the first half of each is not learned."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for n in LENGTHS:
        ids = torch.randint(1, 96, (n,), generator=generator)
        labels = ids.clone()
        labels[: max(1, n // 2)] = -100
        rows.append((ids, labels))
    return rows


def padded():
    width = max(LENGTHS)
    ids = torch.zeros(3, width, dtype=torch.long)
    labels, mask = torch.full((3, width), -100), torch.zeros(3, width, dtype=torch.long)
    for i, (row, label) in enumerate(rows()):
        ids[i, : len(row)], labels[i, : len(row)], mask[i, : len(row)] = row, label, 1
    return {
        "input_ids": ids, "labels": labels, "attention_mask": mask,
        "position_ids": torch.arange(width).expand(3, -1), "num_supervised": int((labels != -100).sum()),
    }  # fmt: skip


def packed():
    return {
        "input_ids": torch.cat([r for r, _ in rows()])[None],
        "labels": torch.cat([y for _, y in rows()])[None],
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "lengths": torch.tensor(LENGTHS, dtype=torch.int32),
        "num_supervised": padded()["num_supervised"],
    }


def plain(model, batch):
    """Per-token losses from the full logits tensor, as every textbook has it."""
    out = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
    )  # fmt: skip
    logits, labels = out.logits[:, :-1], batch["labels"][:, 1:]
    losses = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    return losses[labels.flatten() != -100]


def gradients(model, loss):
    loss.backward()
    actual = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return actual


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [2, 1024])
def test_chunked_loss_equals_the_plain_one(name, chunk):
    model = build(name)
    expected = plain(model, padded())
    expected_gradients = gradients(model, expected.mean())
    values = NextTokenPrediction(chunk_size=chunk)(model, padded()).values
    actual = gradients(model, values.mean())
    assert (values - expected).abs().max() < 1e-6
    assert set(actual) == set(expected_gradients)
    assert max((actual[n] - expected_gradients[n]).abs().max() for n in actual) < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_packed_losses_equal_unpacked_ones(name):
    model = build(name)
    together = NextTokenPrediction()(model, packed())
    apart = NextTokenPrediction()(model, padded())
    assert (together.values - apart.values).abs().max() < 1e-5
    assert together.sequence_index.tolist() == apart.sequence_index.tolist()


def test_the_full_logits_never_exist():
    """The head is never given more than a chunk, and nothing at unlabelled positions."""
    model, sizes = build("llama"), []
    model.lm_head.register_forward_hook(lambda m, args, out: sizes.append(out.shape[:-1].numel()))
    NextTokenPrediction(chunk_size=4)(model, packed()).values.sum().backward()
    assert max(sizes) == 4
    assert sum(sizes) == 2 * packed()["num_supervised"]  # once forward, once again in backward


def test_first_token_of_a_document_is_not_predicted_from_the_one_before():
    where, labels, sequence = find_supervised(packed())
    starts = {0, 7, 19}
    assert not {int(w) + 1 for w in where} & starts
    assert len(labels) == packed()["num_supervised"] and sequence.unique().tolist() == [0, 1, 2]


def test_reductions_have_their_closed_forms():
    model, batch = build("llama"), packed()
    losses = NextTokenPrediction()(model, batch)
    v, s = losses.values, losses.sequence_index

    def loss(**options):
        objective = NextTokenPrediction(**options)
        return (objective.numerator(losses) / objective.denominator([batch])).item()

    means = torch.stack([v[s == i].mean() for i in range(3)])
    assert loss(reduction="token") == pytest.approx(v.mean().item(), rel=1e-6)
    assert loss(reduction="sequence") == pytest.approx(means.mean().item(), rel=1e-6)
    assert loss(reduction="target") == pytest.approx(v.sum().item() / 3, rel=1e-6)
    assert loss(reduction="constant", constant=50.0) == pytest.approx(v.sum().item() / 50, rel=1e-6)


def test_a_frozen_model_below_the_first_trained_layer_gets_no_gradient_work():
    """Autograd stops at the first trained tensor: nothing below it is even saved."""
    model = build("llama")
    model.requires_grad_(False)
    model.model.layers[1].mlp.down_proj.weight.requires_grad_(True)
    seen = []
    model.model.layers[0].register_forward_hook(lambda m, a, out: seen.append(out.requires_grad))
    NextTokenPrediction()(model, packed()).values.sum().backward()
    assert seen == [False]
