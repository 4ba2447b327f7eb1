"""Models whose files are laid out otherwise: fused projections, turned matrices, a tied head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta
from ftcli.deltas.operations import find_operations
from ftcli.papers.finetuning_transfer import transfer
from ftcli.papers.model_soups import soup

IDS = torch.arange(12).view(2, 6)


def kinds() -> dict:
    """GPT-2 holds its fused projections [in, out] and ties its head; Phi-3 fuses [out, in] and does not."""
    import transformers as t

    sizes = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    gpt2 = t.GPT2Config(n_positions=16, n_embd=16, n_layer=2, n_head=2, **sizes)
    phi3 = t.Phi3Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, **sizes,
    )  # fmt: skip
    return {"gpt2": t.GPT2LMHeadModel(gpt2), "phi3": t.Phi3ForCausalLM(phi3)}


def moved(model, size: float, seed: int):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`<kind>/base`, `<kind>/tuned`, and `gpt2/new`, another version of the base."""
    root = tmp_path_factory.mktemp("layouts")
    for kind, model in kinds().items():
        moved(model, 0.02, 0).save_pretrained(root / kind / "base")
        moved(model, 0.01, 1).save_pretrained(root / kind / "tuned")
        moved(model, 0.01, 2).save_pretrained(root / kind / "new")
    return root


def adapter(folder: Path, name: str, seed: int, **options) -> Path:
    """A LoRA of the tiny GPT-2 with both factors at random."""
    import peft

    base = folder / "gpt2" / "base"
    options = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True} | options
    config = peft.LoraConfig(r=3, lora_alpha=6, **options)
    model = peft.get_peft_model(loaded(base), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / name)
    config = json.loads((folder / name / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (folder / name / "adapter_config.json").write_text(json.dumps(config))
    return folder / name


def loaded(path: Path):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(path).eval()


def merged(path: Path, base: Path) -> dict[str, torch.Tensor]:
    import peft

    model = peft.PeftModel.from_pretrained(loaded(base), path).merge_and_unload()
    return dict(model.named_parameters())


def furthest(first, second) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.parametrize("kind", ["gpt2", "phi3"])
def test_diff_and_apply_are_there_and_back(folder, tmp_path, kind):
    base, tuned = str(folder / kind / "base"), folder / kind / "tuned"
    figures = find_operations()["diff"](str(tuned), str(tmp_path / "delta"), base=base).figures
    find_operations()["apply"](str(tmp_path / "delta"), str(tmp_path / "again"))
    trained = load_file(tuned / "model.safetensors")
    restored = load_file(tmp_path / "again" / "model.safetensors")
    assert restored.keys() == trained.keys() and len(trained) == figures["tensors"]
    assert all(torch.equal(restored[name], trained[name]) for name in trained)
    assert figures["entries"] == sum(p.numel() for p in loaded(tuned).parameters())  # a tie once
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path / "again")(IDS).logits, loaded(tuned)(IDS).logits)


@pytest.mark.parametrize("kind", ["gpt2", "phi3"])
def test_a_compressed_change_is_applied_from_its_bytes(folder, tmp_path, kind):
    base, tuned = folder / kind / "base", folder / kind / "tuned"
    find_operations()["compress"](str(tuned), str(tmp_path / "small"), density=0.3, base=str(base))
    find_operations()["apply"](str(tmp_path / "small"), str(tmp_path / "again"))
    restored = load_file(tmp_path / "again" / "model.safetensors")
    before, after = (load_file(path / "model.safetensors") for path in (base, tuned))
    change = torch.cat([(after[n].double() - before[n].double()).flatten() for n in sorted(after)])
    kept = change.abs() > change.abs().sort().values[-int(0.3 * len(change)) - 1]
    expected = change.std() * change.sign() * kept
    start = torch.cat([before[n].double().flatten() for n in sorted(after)])
    values = torch.cat([restored[n].double().flatten() for n in sorted(after)])
    assert (values - start - expected).abs().max() < 1e-6


def test_the_product_for_a_turned_matrix_is_what_merging_adds(folder):
    path, base = adapter(folder, "turned", 0), folder / "gpt2" / "base"
    change = Delta.open(path, product=True)
    assert len(change) == 2 * 3 and change["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)
    assert furthest(change.add_to(Artefact.open(base).weights), merged(path, base)) < 1e-7


def test_a_mean_of_adapters_is_of_their_products_and_not_of_their_factors(folder):
    paths, base = [adapter(folder, f"a{i}", i) for i in range(2)], folder / "gpt2" / "base"
    mean = soup.average_uniformly([Delta.open(path, product=True) for path in paths])
    first, second = (merged(path, base) for path in paths)
    averaged = mean.add_to(Artefact.open(base).weights)
    assert furthest(averaged, {n: (first[n] + second[n]) / 2 for n in averaged}) < 1e-7
    factors = soup.average_uniformly([Delta.open(path) for path in paths])
    from ftcli.deltas.product import multiply_factors

    assert (multiply_factors(factors).norm() - mean.norm()) ** 2 > 1e-4


def test_an_adapter_on_a_new_base_is_the_whole_change_added_to_it(folder):
    path, new = adapter(folder, "moved", 3), Artefact.open(folder / "gpt2" / "new")
    whole = transfer.transfer_delta(Delta.open(path, product=True), new)
    assert furthest(whole, merged(path, new.folder)) < 1e-7


def test_one_of_two_tied_matrices_has_no_change_of_its_own(folder):
    path = adapter(folder, "table", 4, target_modules=["wte"], fan_in_fan_out=False)
    with pytest.raises(UserError, match="shares with its output head"):
        Delta.open(path, product=True)


def test_whole_tensors_in_an_adapter_are_no_factors(folder):
    """PEFT writes the head besides, where it has an adapter of its own."""
    path = adapter(folder, "head", 5, target_modules=["lm_head"], fan_in_fan_out=False)
    with pytest.raises(UserError, match="lm_head.base_layer.weight"):
        Delta.open(path)


def test_compressed_adapters_are_merged_from_their_files(folder, tmp_path):
    """Two tasks, each a file of signs, in one model: TIES of the products that the signs stand for."""
    paths = [adapter(folder, f"task{i}", 10 + i) for i in range(2)]
    small = [str(tmp_path / path.name) for path in paths]
    for path, to in zip(paths, small, strict=True):
        find_operations()["compress"](str(path), to, density=0.5)
    find_operations()["scale"](
        small, str(tmp_path / "both"), alpha=1.0, beta=0.0, merge="ties", density=1.0
    )
    weights = load_file(tmp_path / "both" / "model.safetensors")
    base = load_file(folder / "gpt2" / "base" / "model.safetensors")
    first, second = (Delta.open(path, product=True) for path in small)
    for name in first:
        pair = torch.stack([first[name], second[name]])
        agreeing = pair.sign() == pair.sum(0).sign()
        mean = (pair * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)
        assert (weights[name] - base[name] - mean).abs().max() < 1e-6
    assert torch.equal(weights["transformer.wte.weight"], base["transformer.wte.weight"])
