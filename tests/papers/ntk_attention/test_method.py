"""Models with prefix terms: identity, causality, packing, cache, which modules, counts, dropout."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, ViTConfig, ViTForImageClassification

from ftcli.core.errors import UserError
from ftcli.models import attention
from ftcli.models.anatomy import count_parameters
from ftcli.models.attention_layout import pack_inputs
from ftcli.papers.ntk_attention.method import PrefixedAttention, find_attention
from tests.methods.tiny import IDS, load, logits, method, train, trainable, write_gpt2, write_llama

WRITERS = {"llama": write_llama, "gpt2": write_gpt2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in WRITERS.items()}


def prepare(base, **options):
    torch.manual_seed(1)
    return method("ntk_attention", **options).prepare(base)


def perturbed(base, by=0.1):
    """A model whose k and Z have been moved off zero."""
    model = prepare(base)
    torch.manual_seed(2)
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(by * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize("kind", WRITERS)
@torch.no_grad()
def test_later_tokens_change_nothing(folders, kind):
    model = perturbed(load(folders[kind], kind=kind))
    other = IDS.clone()
    other[:, 8] = 100
    difference = (model(input_ids=IDS).logits - model(input_ids=other).logits).abs()
    assert difference[:, :8].max() < 1e-6 and difference[:, 8:].max() > 1e-3


@pytest.mark.parametrize("kind", WRITERS)
def test_generation_with_a_cache_equals_generation_without(folders, kind):
    model = perturbed(load(folders[kind], kind=kind), by=1.0)
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0  # padded on the left
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    texts = [
        model.generate(input_ids=IDS, use_cache=c, eos_token_id=127, **options)
        for c in (True, False)
    ]
    base = load(folders[kind], kind=kind).generate(input_ids=IDS, eos_token_id=127, **options)
    assert torch.equal(*texts) and not torch.equal(texts[0], base)


@torch.no_grad()
def test_a_cache_gives_the_states_of_a_full_pass(folders):
    model = perturbed(load(folders["llama"]))
    whole, cache, steps = model(input_ids=IDS).logits, None, []
    for token in IDS.split(1, dim=1):
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    assert (torch.cat(steps, 1) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("kind", WRITERS)
@torch.no_grad()
def test_packed_documents_are_those_of_separate_rows(folders, kind):
    model = perturbed(load(folders[kind], kind=kind))
    lengths = torch.tensor([7, 5])
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    row = {"input_ids": IDS[:1], "position_ids": positions, "lengths": lengths}
    packed = model(**pack_inputs(row)).logits[:, :12]
    single = [model(input_ids=ids).logits for ids in IDS[:1].split([7, 5], dim=1)]
    assert (packed - torch.cat(single, 1)).abs().max() < 1e-5


def test_the_attention_of_the_model_may_be_switched(folders):
    """Measuring how prompts are padded switches it; prefix terms stay."""
    model = perturbed(load(folders["llama"]))
    before = logits(model)
    base = model.base_model.model
    attention.set_attention(base, "library")
    assert (logits(model) - before).abs().max() < 1e-5
    base.set_attn_implementation("eager")
    assert (logits(model) - before).abs().max() < 1e-5
    attention.set_attention(base, "documents")
    assert torch.equal(logits(model), before)


def test_disabled_it_is_the_base(folders):
    model = perturbed(load(folders["llama"]))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(load(folders["llama"])))
    assert (logits(model) - logits(load(folders["llama"]))).abs().max() > 1e-2


def test_k_moves_from_zero(folders):
    model = prepare(load(folders["llama"]))
    train(model, steps=1)
    k = [p for n, p in trainable(model).items() if "ntkattention_k" in n]
    assert len(k) == 2 and all((p != 0).float().mean() > 0.9 for p in k)


def test_it_may_start_near_the_base_as_in_the_authors_code_for_language(folders):
    model = prepare(load(folders["llama"]), init_std=1e-4)
    values = torch.cat([p.flatten() for p in trainable(model).values()])
    assert 0.8e-4 < values.std() < 1.2e-4
    difference = (logits(model) - logits(load(folders["llama"]))).abs().max()
    assert 0 < difference < 1e-2


def test_dropout_of_features_is_on_in_training_alone(folders):
    torch.manual_seed(0)
    model = prepare(load(folders["llama"]), feature_dropout=0.5, init_std=0.1)
    assert torch.equal(logits(model), logits(model))
    assert not torch.equal(*(model.train()(input_ids=IDS).logits for _ in range(2)))


def test_every_head_of_every_layer_has_a_vector_and_a_matrix(folders):
    model = prepare(load(folders["llama"]))
    layers = [m for m in model.modules() if isinstance(m, PrefixedAttention)]
    assert [m.ntkattention_Z["default"].shape for m in layers] == [(4, 32, 32)] * 2
    assert count_parameters(model, trainable_only=True) == 2 * 4 * (32 * 32 + 32)


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def test_heads_wider_than_their_share_and_windows():
    torch.manual_seed(0)
    config = Qwen3Config(**SIZES, vocab_size=128, num_key_value_heads=2, head_dim=32,
                         use_sliding_window=True, sliding_window=4, max_window_layers=1)  # fmt: skip
    base = AutoModelForCausalLM.from_config(config).eval()
    before = logits(base)
    model = perturbed(base)
    assert next(iter(trainable(model).values())).shape == (4, 32)
    first = logits(model)
    with model.disable_adapter():
        assert (logits(model) - before).abs().max() < 1e-6
    model.base_model.model.set_attn_implementation("sdpa")
    assert (logits(model) - first).abs().max() < 1e-5


def test_a_vit_starts_as_its_base_and_learns():
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=16, patch_size=4, num_channels=1)
    base = ViTForImageClassification(config).eval()
    pixels = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        before = base(pixel_values=pixels).logits
        model = prepare(base, task_type=None)
        assert (model(pixel_values=pixels).logits - before).abs().max() < 1e-6
    model(pixel_values=pixels).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable(model).values())


def test_the_count_of_the_papers_model_without_weights():
    with torch.device("meta"):
        vit = ViTForImageClassification(ViTConfig())
    assert len(find_attention(vit)) == 12
    model = prepare(vit, task_type=None)
    assert count_parameters(model, trainable_only=True) == 12 * 12 * (64**2 + 64) == 599_040


def test_modules_that_are_no_attention_are_refused(folders):
    with pytest.raises(UserError, match="LlamaMLP is no attention"):
        prepare(load(folders["llama"]), target_modules=["mlp"])
    with pytest.raises(UserError, match="feature_dropout"):
        prepare(load(folders["llama"]), feature_dropout=1.0)


def test_merging_is_refused(folders):
    how = method("ntk_attention")
    with pytest.raises(UserError, match="cannot be merged"):
        how.merge(how.prepare(load(folders["llama"])))
