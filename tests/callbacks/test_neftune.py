"""Noise of alpha / sqrt(L d) on the embeddings of a document of L tokens, in training alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers as tf

from ftcli.callbacks.neftune import NEFTune, document_lengths
from ftcli.core.errors import UserError
from ftcli.models import attention
from ftcli.models.attention_layout import pack_inputs

WIDTH, ALPHA, LENGTHS = 64, 5.0, [40, 160, 90]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, vocab_size=96,
        intermediate_size=48, num_key_value_heads=2,
    )  # fmt: skip
    config._attn_implementation = attention.NAME
    return tf.AutoModelForCausalLM.from_config(config).train()


def packed():
    ids = torch.randint(0, 96, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    return pack_inputs(
        {"input_ids": ids, "position_ids": positions, "lengths": torch.tensor(LENGTHS)}
    )


def noise(model, inputs):
    """Return the noise of the last forward pass: embeddings minus their table's rows, [B, T, d]."""
    seen = []
    hook = model.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0].detach()), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    return seen[0] - model.get_input_embeddings().weight[inputs["input_ids"]].detach()


def attach(model, alpha=ALPHA):
    callback = NEFTune(alpha)
    callback.setup(SimpleNamespace(model=model))
    return callback


def test_each_packed_document_has_noise_of_its_own_length(model):
    attach(model)
    added = noise(model, packed())[0]
    for part, length in zip(
        added.split([*LENGTHS, added.shape[0] - sum(LENGTHS)]), LENGTHS, strict=False
    ):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert part.abs().max() <= bound * 1.0001 and part.abs().max() > 0.99 * bound
        assert part.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
        assert part.norm().item() == pytest.approx(ALPHA / 3**0.5, rel=0.03)


def test_a_padded_row_counts_its_real_tokens(model):
    attach(model)
    mask = torch.ones(2, 50, dtype=torch.long)
    mask[0, 20:] = 0
    inputs = {"input_ids": torch.randint(0, 96, (2, 50)), "attention_mask": mask}
    added = noise(model, inputs)
    for row, length in zip(added, (20, 50), strict=True):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert 0.99 * bound < row.abs().max() <= bound * 1.0001


def test_nothing_is_added_in_evaluation_and_after_training(model):
    callback = attach(model)
    model.eval()
    assert noise(model, packed()).abs().max() == 0
    model.train()
    assert noise(model, packed()).abs().max() > 0
    callback.on_train_end(SimpleNamespace())
    assert noise(model, packed()).abs().max() == 0


def test_lengths_of_documents():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6]])
    assert document_lengths({"position_ids": positions}).tolist() == [
        [3, 3, 3, 2, 2, 1, 1],
        [7] * 7,
    ]
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert document_lengths({"attention_mask": mask}).tolist() == [[2, 2, 2], [3, 3, 3]]
    assert document_lengths({"input_ids": mask}) is None


def test_a_model_without_token_embeddings_is_refused():
    config = tf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(UserError, match="token embeddings"):
        NEFTune().check_model(tf.ViTForImageClassification(config))
