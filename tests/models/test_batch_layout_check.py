"""Row formats measured for models of different make are right by the library's own losses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from ftcli.core.batch_layout import BatchLayout
from ftcli.core.errors import UserError
from ftcli.data.loader import Loader
from ftcli.models import attention
from ftcli.models.batch_layout_check import select_batch_layout
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.probing import choose_row_length, draw_rows, scale_error_by_sensitivity
from ftcli.objectives.causal_lm import NextTokenPrediction

from . import zoo

LENGTHS = (23, 9, 9, 17, 30)
#: type -> packing and attention that are right for it on a CPU.
FOUND = {
    "llama": ("flat", "documents"), "gpt_oss": ("flat", "documents"),
    "mimo_v2_flash": ("flat", "documents"), "gemma2": ("flat", "documents"),
    "gemma3_text": ("flat", "documents"), "llama4_text": ("flat", "documents"),
    "phimoe": ("flat", "documents"), "granite": ("flat", "documents"),
    "hyperclovax": ("flat", "documents"), "minicpm3": ("flat", "documents"),
    "cohere2": ("flat", "documents"), "doge": ("none", "documents"),
    "mamba": ("none", "documents"), "mamba2": ("none", "documents"),
    "qwen3_next": ("none", "documents"), "lfm2": ("none", "documents"),
    "granitemoehybrid": ("none", "documents"), "nemotron_h": ("none", "documents"),
    "falcon_h1": ("none", "documents"), "recurrent_gemma": ("none", "documents"),
    "minimax": ("none", "documents"), "roberta": ("none", "documents"),
    "bloom": ("none", "library"), "mpt": ("none", "library"), "falcon": ("none", "library"),
    "openai-gpt": ("none", "library"), "gpt_neo": ("none", "library"), "rwkv": ("none", "library"),
    "git": ("none", "library"), "bigbird_pegasus": ("none", "library"),
}  # fmt: skip


@torch.no_grad()
def library(kind, documents):
    """The mean loss of each document alone, of the model's own logits by the library's attention.

    Not its own `loss`: some decoders (BigBird-Pegasus) do not shift their labels.
    """
    model = zoo.build(kind)
    rows = [torch.tensor([ids]) for ids in documents]
    logits = [model(input_ids=x, use_cache=False).logits[0, :-1].float() for x in rows]
    return torch.stack([cross_entropy(y, x[0, 1:]) for x, y in zip(rows, logits, strict=True)])


@torch.no_grad()
def ours(model, documents, outcome, batch_size=3):
    """The mean loss of each document by ftcli's batches and objective."""
    lengths = [len(ids) for ids in documents]
    tokens = SimpleNamespace(
        ids=np.concatenate([np.asarray(ids, dtype=np.int32) for ids in documents]),
        loss_mask=np.concatenate([np.arange(n) > 0 for n in lengths]),
        offsets=np.cumsum([0, *lengths]),
        lengths=np.asarray(lengths),
    )
    row_losses = {}
    loader = Loader(
        tokens,
        batch_size,
        outcome.packing,
        shuffle=False,
        document_isolation=outcome.document_isolation,
    )
    for batch in loader:
        losses = NextTokenPrediction(chunk_size=16)(model, batch)
        for number, row in enumerate(batch["indices"]):
            row_losses[row] = losses.values[losses.sequence_index == number].mean()
    return torch.stack([row_losses[row] for row in range(len(documents))])


@pytest.mark.parametrize("kind", FOUND)
def test_what_is_found_gives_the_losses_of_each_document_alone(kind):
    model = zoo.build(kind)
    attention.install_document_attention(model)
    outcome = select_batch_layout(model, "auto", 512, NextTokenPrediction(), kind)
    assert (outcome.packing, outcome.attention) == FOUND[kind]
    assert bool(outcome.reason) == (outcome.packing != "flat")
    documents = zoo.documents(LENGTHS)
    assert (ours(model, documents, outcome) - library(kind, documents)).abs().max() < 1e-4


def test_a_model_that_reads_ahead_is_refused():
    with pytest.raises(UserError, match="not causal"):
        select_batch_layout(zoo.build("cpmant"), "auto", 512, NextTokenPrediction())


def test_rows_go_one_by_one_where_the_library_takes_no_padding():
    model = zoo.build("xlnet")
    outcome = select_batch_layout(model, "none", 512, NextTokenPrediction())
    assert outcome.document_isolation == "one_row_per_forward"
    documents = zoo.documents(LENGTHS)
    expected = library("xlnet", documents)
    assert (ours(model, documents, outcome) - expected).abs().max() < 1e-4
    with pytest.raises(RuntimeError):
        ours(model, documents, BatchLayout("none", "library"))


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("lfm2", "convolution or recurrent layer model.layers.0.conv (Lfm2ShortConv)"),
        ("mamba2", "convolution or recurrent layer backbone.layers.0.mixer (Mamba2Mixer)"),
        ("minimax", "attention model.layers.1.self_attn (MiniMaxLightningAttention)"),
        ("xlstm", "layer backbone.blocks.0.mlstm_layer (xLSTMLayer)"),
    ],
)
def test_packing_that_was_asked_for_is_refused_with_the_layer(kind, layer):
    model = zoo.build(kind)
    attention.install_document_attention(model)
    with pytest.raises(UserError) as caught:
        select_batch_layout(model, "flat", 512, NextTokenPrediction(), kind)
    assert layer in caught.value.what and "mixes documents" in caught.value.what
    assert caught.value.where == "data.packing" and "data.packing=none" in caught.value.fix


def test_chance_mode_and_gradients_are_as_they_were():
    model = zoo.build("llama").train()
    attention.install_document_attention(model)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    select_batch_layout(model, "auto", 512, NextTokenPrediction())
    assert torch.equal(torch.rand(4), expected)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_rows_are_as_long_as_the_windows_that_the_data_pass():
    model = zoo.build("mistral")
    model.config.sliding_window = 100
    assert choose_row_length(model, 512) == 108
    assert choose_row_length(model, 90) == 21  # no row of the run is longer than the window
    ids = torch.cat(draw_rows(model, (200,)))
    assert ids.max() < 256 and model.config.eos_token_id not in ids


def test_the_shipped_model_is_measured_within_a_second():
    source = CausalLMSource("asset:llama_mini")
    model = source.load("cpu")
    start = time.process_time()
    assert source.select_batch_layout(model, "auto", 512, NextTokenPrediction()) == BatchLayout(
        "flat"
    )
    assert time.process_time() - start < 1


def test_a_model_that_gives_no_losses_is_refused():
    model = zoo.build("llama")
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        select_batch_layout(model, "auto", 512, NextTokenPrediction())


def test_memory_that_runs_out_is_no_answer(monkeypatch):
    model = zoo.build("llama")
    attention.install_document_attention(model)

    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(NextTokenPrediction, "__call__", fails)
    with pytest.raises(torch.OutOfMemoryError):
        select_batch_layout(model, "auto", 512, NextTokenPrediction())


def test_half_precision_does_not_hide_a_leak():
    """Falcon-H1's losses differ by 0.03 on average, as those of right models do in bfloat16."""
    model = zoo.build("falcon_h1").to(torch.bfloat16)
    attention.install_document_attention(model)
    outcome = select_batch_layout(model, "auto", 512, NextTokenPrediction())
    assert outcome.packing == "none" and "with the other row" in outcome.reason


@pytest.mark.parametrize(("scale", "excused"), [(1.0, False), (30.0, True)])
def test_only_models_that_enlarge_rounding_are_excused_for_it(scale, excused):
    """A head of large weights makes of the last bit of the embeddings more than 0.05 nats."""
    model = zoo.build("llama").to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    ids = torch.arange(5, 45)[None]

    def compute():
        return model(ids).logits.float().log_softmax(-1)[0].gather(1, ids[0][:, None])[:, 0]

    error = scale_error_by_sensitivity(model, 3.0, compute)
    assert (error < 3.0) == excused and scale_error_by_sensitivity(model, 0.5, compute) == 0.5
    assert scale_error_by_sensitivity(model.float(), 3.0, compute) == 3.0


def test_further_loads_keep_the_measured_attention(tmp_path):
    source = CausalLMSource(str(zoo.write("git", tmp_path / "git")))
    assert (
        source.select_batch_layout(source.load("cpu"), "auto", 512, NextTokenPrediction()).attention
        == "library"
    )
    assert source.load("cpu").config._attn_implementation != attention.NAME


@dataclass
class Summed(PreTrainedConfig):
    """A recurrent model whose state restarts where `seq_idx` changes."""

    model_type = "summed"
    vocab_size: int = 64
    hidden_size: int = 16


class SummedModel(PreTrainedModel):
    config_class = Summed

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, seq_idx=None, **kwargs):
        states = self.embed(input_ids)
        numbers = torch.zeros_like(input_ids) if seq_idx is None else seq_idx.expand_as(input_ids)
        length = torch.arange(input_ids.shape[1])
        seen = (numbers[:, :, None] == numbers[:, None]) & (length[:, None] >= length)
        return CausalLMOutput(logits=self.head(seen.float() @ states))


def test_layers_that_can_begin_anew_are_told_where_documents_end():
    torch.manual_seed(0)
    model = SummedModel(Summed()).eval()
    for weight in model.parameters():
        weight.data.normal_(std=0.3)
    model.library_attention = model.config._attn_implementation
    outcome = select_batch_layout(model, "auto", 512, NextTokenPrediction())
    assert (outcome.packing, outcome.document_isolation) == ("flat", "reset_state")
    rows = [[i % 60 for i in ids] for ids in zoo.documents(LENGTHS)]
    alone = torch.cat([ours(model, [row], BatchLayout("none")) for row in rows])
    assert (ours(model, rows, outcome) - alone).abs().max() < 1e-4
    assert (ours(model, rows, BatchLayout("flat")) - alone).abs().max() > 1e-2
