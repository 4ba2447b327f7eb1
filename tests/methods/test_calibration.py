"""Covariances and gradients of every kind of model against the same, document by document."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.methods import calibration
from ftcli.methods.peft import Peft
from ftcli.models.anatomy import Anatomy
from ftcli.models.causal_lm import CausalLMSource as Source
from ftcli.objectives.causal_lm import NextTokenPrediction, compute_hidden_and_head

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
MODELS = {
    "llama": lambda: LlamaForCausalLM._from_config(
        LlamaConfig(**SIZES, **HEADS), attn_implementation="documents"
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, **NONE)
    ),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES, num_attention_heads=4)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            d_model=32,
            d_ff=48,
            d_kv=8,
            num_heads=4,
            num_layers=2,
            vocab_size=64,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    ),
    "phi3": lambda: Phi3ForCausalLM._from_config(
        Phi3Config(**SIZES, **HEADS, **NONE), attn_implementation="documents"
    ),
}
LENGTHS = [9, 4, 7]
#: Decoder lengths of T5, in another order: padding of one side is no padding of the other.
ANSWERS = [3, 9, 5]


def model_of(kind, seed=0):
    import ftcli.models.attention  # noqa: F401  (registers the attention of packed rows)

    torch.manual_seed(seed)
    model = MODELS[kind]().eval()
    model.requires_grad_(False)
    return model


def documents(lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 60, (n,), generator=generator) for n in lengths]


def padded(docs, answers=None):
    """Documents side by side; `answers` are the labels of an encoder-decoder."""

    def rows(parts, fill):
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)

    ids, mask = rows(docs, 0), rows([torch.ones_like(d) for d in docs], 0)
    labels = rows(docs if answers is None else answers, -100)
    positions = torch.arange(ids.shape[1]).expand_as(ids) * mask
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "position_ids": positions,
        "indices": list(range(len(docs))),
        "num_supervised": int((labels != -100).sum()),
    }


def packed(docs):
    ids, lengths = torch.cat(docs)[None], torch.tensor([len(d) for d in docs], dtype=torch.int32)
    labels = ids.clone()
    labels[0, (lengths.cumsum(0) - lengths).long()] = -100  # nothing predicts across documents
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": torch.cat([torch.arange(len(d)) for d in docs])[None],
        "lengths": lengths,
        "indices": list(range(len(docs))),
        "num_supervised": int((labels != -100).sum()),
    }


def plain_forward(model, batch):
    keys = ("input_ids", "attention_mask", "labels")
    return model(**{key: batch[key] for key in keys})


def causal_forward(model, batch):
    return compute_hidden_and_head(model, batch, torch.device("cpu"))


def by_hand(model, layers, batches):
    """X^T X of each layer, every batch a single document without padding."""
    totals = {}

    def watch(name, layer):
        def add(_, args):
            x = args[0].flatten(0, -2)
            totals[name] = totals.get(name, 0) + x.T @ x

        return layer.register_forward_pre_hook(add)

    hooks = [watch(name, layer) for name, layer in layers.items()]
    with torch.no_grad():
        for batch in batches:
            plain_forward(model, batch)
    for hook in hooks:
        hook.remove()
    return totals


def layers_of(model):
    return {linear.name: linear.module for linear in Anatomy(model).block_linears}


@pytest.mark.parametrize("kind", MODELS)
def test_covariance_of_a_padded_batch_is_that_of_its_documents(kind):
    model = model_of(kind)
    layers, docs = layers_of(model), documents()
    answers = documents(ANSWERS, seed=2) if kind == "t5" else None
    singles = [padded([d], answers and [answers[i]]) for i, d in enumerate(docs)]
    expected = by_hand(model, layers, singles)
    covariances = calibration.input_covariance(
        model, layers, [padded(docs, answers)], plain_forward
    )
    assert covariances.keys() == expected.keys() == layers.keys()
    for name, covariance in covariances.items():
        torch.testing.assert_close(covariance.total, expected[name], rtol=1e-4, atol=1e-4)
        decodes = kind == "t5" and name.startswith("decoder")
        crossed = "EncDecAttention.k" in name or "EncDecAttention.v" in name
        assert covariance.tokens == sum(ANSWERS if decodes and not crossed else LENGTHS)
        assert covariance.sequences == 3
        torch.testing.assert_close(covariance.mean * covariance.tokens, covariance.total)
    if kind == "t5":  # both kinds of layers are among them
        assert any("EncDecAttention.k" in name for name in covariances)


def test_a_decoder_as_long_as_its_encoder_is_told_from_it():
    model = model_of("t5")
    docs, answers = documents(), documents(ANSWERS, seed=2)
    assert max(map(len, docs)) == max(map(len, answers))
    layers = layers_of(model)
    covariances = calibration.input_covariance(
        model, layers, [padded(docs, answers)], plain_forward
    )
    assert {covariance.tokens for covariance in covariances.values()} == {
        sum(LENGTHS),
        sum(ANSWERS),
    }


@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_packed_padded_and_single_rows_give_the_same(kind):
    model = model_of(kind)
    layers, docs = layers_of(model), documents()
    ways = [[packed(docs)], [padded(docs)], [packed([d]) for d in docs]]
    first, *others = (
        calibration.input_covariance(model, layers, way, causal_forward) for way in ways
    )
    for other in others:
        for name, covariance in first.items():
            assert (covariance.tokens, covariance.sequences) == (
                other[name].tokens,
                other[name].sequences,
            )
            assert covariance.tokens == sum(LENGTHS)  # and not the 64 of the filled-up row
            torch.testing.assert_close(covariance.total, other[name].total, rtol=1e-4, atol=1e-5)


def test_rescaling_sees_real_tokens_and_their_sequences():
    model, seen = model_of("llama"), []

    def note(x, owner):
        seen.append((len(x), owner.bincount().tolist()))
        return x / 2

    layers = dict(list(layers_of(model).items())[:1])
    halved = calibration.input_covariance(
        model, layers, [packed(documents())], causal_forward, note
    )
    plain = calibration.input_covariance(model, layers, [packed(documents())], causal_forward)
    assert seen == [(sum(LENGTHS), LENGTHS)]
    for name in layers:
        torch.testing.assert_close(4 * halved[name].total, plain[name].total)


def test_a_covariance_is_float32_under_autocast():
    model = model_of("llama")
    layers = dict(list(layers_of(model).items())[:1])

    def forward(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            causal_forward(model, batch)

    rough = calibration.input_covariance(model, layers, [packed(documents())], forward)
    exact = calibration.input_covariance(model, layers, [packed(documents())], causal_forward)
    for name in layers:  # the first layer's input is the same, so only the product could differ
        assert (rough[name].total - exact[name].total).norm() / exact[name].total.norm() < 1e-2
        assert rough[name].total.dtype == torch.float32


def test_a_layer_off_the_batch_or_not_finite_is_refused():
    model = model_of("bert")
    pooled = torch.nn.Linear(32, 32)
    model.add_module("pooled", pooled)
    batch = padded(documents())

    def forward(model, batch):
        out = plain_forward(model, batch)
        pooled(out.logits[:, 0, :32])

    with pytest.raises(UserError, match="pooled gets 3 tokens where the batch has 27"):
        calibration.input_covariance(model, {"pooled": pooled}, [batch], forward)
    assert not pooled._forward_pre_hooks
    broken = model_of("llama")
    broken.model.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        calibration.input_covariance(broken, layers_of(broken), [batch], causal_forward)


def loss_of(model, batch):
    """A loss of every model of transformers, the sum over labels."""
    return plain_forward(model, batch).loss * batch["num_supervised"]


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_autograds_own_one_at_a_time(kind):
    model = model_of(kind)
    answers = documents(ANSWERS, seed=2) if kind == "t5" else None
    batches = [padded(documents(seed=s), answers) for s in (1, 2)]
    weights = {name: layer.weight for name, layer in layers_of(model).items()}
    alive = []

    def loss(model, batch):
        for hook in hooks:
            hook.remove()
        hooks[:] = [w.register_post_accumulate_grad_hook(count) for w in weights.values()]
        return loss_of(model, batch)

    def count(_):
        alive.append(sum(w.grad is not None for w in weights.values()))

    hooks = []
    model.train()  # dropout is switched off, and on again
    gradients = calibration.sum_gradients(model, weights, batches, loss)
    for hook in hooks:
        hook.remove()
    assert model.training and not any(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert len(alive) == 2 * len(weights) and max(alive) == 0  # each is gone before the next
    model.eval().requires_grad_(True)
    sum(loss_of(model, batch) for batch in batches).backward()
    assert gradients.keys() == weights.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32 and gradient.device.type == "cpu"
        torch.testing.assert_close(gradient, weights[name].grad, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_the_bases_and_the_adapter_is_left_as_it_was():
    plain = model_of("llama")
    expected = calibration.sum_gradients(
        plain, {"q": plain.model.layers[0].self_attn.q_proj.weight}, [padded(documents())], loss_of
    )
    model = Peft(r=4, lora_dropout=0.5).prepare(model_of("llama"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = {n: (p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()}
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    gradients = calibration.sum_gradients(
        model, {"q": layer.get_base_layer().weight}, [padded(documents())], loss_of
    )
    torch.testing.assert_close(gradients["q"], expected["q"])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1]) and parameter.grad is None
    assert not layer.disable_adapters


def test_a_weight_that_no_batch_reaches_has_no_gradient():
    model = model_of("llama")
    alone = torch.nn.Parameter(torch.ones(2, 2))
    model.register_parameter("alone", alone)
    weights = {"alone": alone, "q": model.model.layers[0].self_attn.q_proj.weight}
    assert calibration.sum_gradients(model, weights, [padded(documents())], loss_of).keys() == {"q"}


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_the_objectives_loss_does_not_depend_on_how_the_rows_are_cut(reduction):
    model, docs = model_of("llama"), documents()
    run = SimpleNamespace(objective=NextTokenPrediction(reduction=reduction), autocast=nullcontext)
    weights = {"q": model.model.layers[1].self_attn.q_proj.weight}

    def gradient(batches):
        loss = calibration.objective_loss(run, batches)
        return calibration.sum_gradients(model, weights, batches, loss)["q"]

    whole = gradient([packed(docs)])
    torch.testing.assert_close(gradient([packed([d]) for d in docs]), whole, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient([padded(docs)]), whole, rtol=1e-4, atol=1e-7)


def test_batches_are_the_first_rows_of_the_runs_order(tmp_path):
    text, other = tmp_path / "a.txt", tmp_path / "b.txt"
    text.write_text("\n".join(f"Line {i} of some text." for i in range(20)))
    other.write_text("Something else.\nAnd more of it.")
    settings = {"format": "text", "text_unit": "line", "cache_dir": str(tmp_path / "tokens")}
    data = Data(str(text), **settings)
    run = SimpleNamespace(data=data, tokenizer=Source("asset:llama_mini").load_tokenizer(), seed=3)
    drawn = list(calibration.calibration_batches(run, count=5, batch_size=2))
    trained = data.loader("train", run.tokenizer, 2, seed=3)
    assert [b["indices"] for b in drawn] == trained.list_batch_indices(0)[
        :3
    ]  # rounded up to whole batches
    assert [b["indices"] for b in calibration.calibration_batches(run, 5, 2, seed=4)] != [
        b["indices"] for b in drawn
    ]
    elsewhere = list(calibration.calibration_batches(run, 5, data=Data(str(other), **settings)))
    assert [b["indices"] for b in elsewhere] in ([[0], [1]], [[1], [0]])  # all there is
