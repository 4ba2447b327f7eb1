"""Prompts among the tokens of an encoder: where they join, where they leave, how many there are."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from ftcli.core.errors import UserError
from ftcli.papers.petl_ast.token_prompts import TokenPromptsConfig

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def ast():
    torch.manual_seed(0)
    return ASTForAudioClassification(ASTConfig(max_length=36, num_mel_bins=26, **SIZES)).eval()


def prompted(base=None, **options):
    torch.manual_seed(1)
    return peft.get_peft_model(base or ast(), TokenPromptsConfig(num_prompts=4, **options)).eval()


def lengths(model) -> list[int]:
    """Tokens that each block sees, and those behind the last one."""
    seen: list[int] = []
    core = model.base_model.model.audio_spectrogram_transformer
    blocks = [getattr(block, "base_layer", block) for block in core.layers]
    hooks = [
        *(b.register_forward_pre_hook(lambda _, a: seen.append(a[0].shape[1])) for b in blocks),
        core.layernorm.register_forward_pre_hook(lambda _, a: seen.append(a[0].shape[1])),
    ]
    with torch.no_grad():
        model(input_values=torch.randn(2, 36, 26))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("deep", "count"), [(False, 4 * 32), (True, 3 * 4 * 32)])
def test_prompts_join_at_the_first_block_and_leave_behind_the_last(deep, count):
    model = prompted(deep=deep)
    tokens = ast().audio_spectrogram_transformer.embeddings.position_embeddings.shape[1]
    assert lengths(model) == [tokens + 4] * 3 + [tokens]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    with model.disable_adapter():
        assert lengths(model) == [tokens] * 4


def test_they_begin_uniform_within_the_papers_bound():
    values = [p for p in prompted(deep=True).parameters() if p.requires_grad]
    bound = (6 / (3 * 16**2 + 32)) ** 0.5
    assert all(v.abs().max() <= bound for v in values)
    assert max(v.abs().max() for v in values) > 0.9 * bound


@pytest.mark.parametrize("deep", [False, True])
def test_gradients_reach_every_prompt_and_they_are_saved(deep, tmp_path):
    model = prompted(deep=deep)
    model.train()
    model(input_values=torch.randn(2, 36, 26), labels=torch.tensor([0, 1])).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in trained)
    model.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(ast(), tmp_path).eval()
    sound = torch.randn(2, 36, 26)
    with torch.no_grad():
        assert torch.equal(again(input_values=sound).logits, model(input_values=sound).logits)


def test_on_images_too():
    model = prompted(ViTForImageClassification(ViTConfig(image_size=32, **SIZES)))
    with torch.no_grad():
        assert model(pixel_values=torch.randn(2, 3, 32, 32)).logits.shape == (2, 2)


def test_a_decoder_is_refused():
    sizes = {**SIZES, "vocab_size": 20}
    with pytest.raises(UserError, match="encoders of images") as caught:
        prompted(LlamaForCausalLM(LlamaConfig(**sizes)))
    assert caught.value.fix == "method=prompt_tuning"
    with pytest.raises(ValueError, match="is below 1"):
        TokenPromptsConfig(num_prompts=0)
