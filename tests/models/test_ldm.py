"""Parts of a diffusion model: by name, frozen or trained, saved and found again, counted on meta."""

from __future__ import annotations

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.methods.full import Full
from ftcli.methods.peft import Peft
from ftcli.models.ldm import LdmSource
from ftcli.models.parts import LatentDiffusion, Patches, unwrap_parts

from .small_ldm import batch, small, source


def test_stable_diffusion_is_counted_without_its_weights():
    model = LdmSource("owner/away", architecture="sd1_5").build_meta_model()
    assert sum(p.numel() for p in model.parameters()) == 859_520_964  # as published: 860M
    assert {p.device.type for p in model.parameters()} == {"meta"}
    others = [model.part("text_encoder"), model.part("autoencoder")]
    assert [sum(p.numel() for p in part.parameters()) for part in others] == [
        123_060_480, 83_653_863,
    ]  # fmt: skip


def test_the_shipped_shape_is_what_its_config_says():
    model = source(trains=["denoiser", "text_encoder"]).build_meta_model()
    assert sum(p.numel() for p in model.parameters()) == 1_378_956


def test_methods_see_only_the_parts_that_train():
    model = small()
    Full().prepare(model)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert names and all(n.startswith("denoiser.") for n in names)
    assert not any(p.requires_grad for p in model.part("text_encoder").parameters())
    model.train()
    assert not model.part("text_encoder").training and model.part("denoiser").training
    both = Full(train=["text_encoder.*"]).prepare(small(("denoiser", "text_encoder")))
    moving = {n for n, p in both.named_parameters() if p.requires_grad}
    assert moving and all(n.startswith("text_encoder.") for n in moving)


def test_an_adapter_goes_on_the_denoiser_and_begins_as_the_base():
    model, given = small(), batch()
    x, t = torch.randn(2, 12, 4, 4), torch.tensor([3, 700])
    before = model(x, t, given["inputs"]["input_ids"])
    wrapped = Peft(r=2, target_modules=["to_q", "to_v"]).prepare(model)
    assert torch.equal(wrapped(x, t, given["inputs"]["input_ids"]), before)
    trained = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert trained and all("denoiser." in n and "lora" in n for n in trained)
    assert unwrap_parts(wrapped) is model and isinstance(unwrap_parts(wrapped), LatentDiffusion)


def test_parts_that_do_not_train_follow_the_model():
    model = small().to(torch.float64)
    assert {p.dtype for p in model.part("text_encoder").parameters()} == {torch.float64}


def test_a_saved_folder_is_the_same_model(tmp_path):
    model = source().load()
    tokenizer = source().load_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = LdmSource(str(tmp_path))
    loaded, ids = again.load(), again.load_tokenizer()(["cat"])["input_ids"]
    x, t = torch.randn(1, 12, 16, 16), torch.tensor([500])
    ids = torch.tensor(ids)
    assert torch.equal(loaded(x, t, ids), model(x, t, ids))
    assert torch.equal(loaded.alphas, model.alphas)


def test_diffusers_reads_the_saved_denoiser(tmp_path):
    from diffusers import UNet2DConditionModel

    small().save_pretrained(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    own = dict(small().part("denoiser").named_parameters())
    assert all(torch.equal(p, own[n]) for n, p in unet.named_parameters())


def test_patches_are_undone_exactly():
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    for factor in (1, 2, 4):
        latents = Patches(factor).to_latents(pixels)
        assert latents.shape == (2, 3 * factor**2, 8 // factor, 8 // factor)
        assert torch.equal(Patches(factor).to_pixels(latents), pixels)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="no unet/config.json"):
        LdmSource(str(tmp_path), weights="random").load()
    with pytest.raises(UserError, match="no part of a diffusion model"):
        LdmSource("x/y", trains=["decoder"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="no architecture stands in"):
        LdmSource("owner/away").build_meta_model()
