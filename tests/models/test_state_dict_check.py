"""Weight files that do not fit: found by check in the headers, refused by train, with names and shares."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig

from ftcli.cli.app import run as ftcli
from ftcli.core.errors import UserError
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.hub import resolve
from ftcli.models.ldm import LdmSource
from ftcli.models.state_dict_check import compare_shapes, find_wrapper_prefixes
from ftcli.models.weight_files import find_weight_files

MINI = Path(resolve("asset:llama_mini"))
TRAIN = (
    "data.limit=32", "trainer.max_steps=1", "trainer.batch_size=4",
    "method=lora", "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32", "~eval",
)  # fmt: skip
LAYER = "model.layers.5."
SHAPE = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def tensors():
    return load_file(MINI / "model.safetensors")


@pytest.fixture
def model_of(tmp_path):
    """Write the shipped model's folder with other tensors."""

    def write(tensors, name="changed"):
        folder = tmp_path / name
        shutil.copytree(MINI, folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write


def command(verb, folder, *overrides):
    return ftcli([verb, "qlora_mini", *TRAIN, f"model.path={folder}", *overrides])


def without_layer(tensors):
    return {k: v for k, v in tensors.items() if not k.startswith(LAYER)}


def wrong_shape(tensors):
    return tensors | {SHAPE: tensors[SHAPE][:-8].clone()}


def extra(tensors):
    return tensors | {"model.layers.8.mlp.up_proj.weight": tensors[SHAPE].clone()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_layer, ("lack 9 tensors", LAYER, "of its parameters")),
        (wrong_shape, (SHAPE, "[696, 256] in the files and [704, 256] in the model")),
        (extra, ("has no parameter for 1 tensor", "layers.8", "extra_weights=ignore")),
    ],
)
@pytest.mark.parametrize("verb", ["check", "train"])
def test_what_does_not_fit_is_one_message(work, capsys, tensors, model_of, verb, change, words):
    status = command(verb, model_of(change(tensors)))
    output = " ".join("".join(capsys.readouterr()).split())
    assert status == 2 and "weights are here" not in output
    for word in words:
        assert " ".join(word.split()) in output, output


def test_extra_tensors_can_be_left_out(tensors, model_of):
    model = CausalLMSource(str(model_of(extra(tensors))), extra_weights="ignore").load("cpu")
    assert torch.equal(model.state_dict()[SHAPE], tensors[SHAPE].float())


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"model.{name}",
        lambda name: name.replace("layers.3.", "layers.3._orig_mod."),
        lambda name: f"_orig_mod.{name}".replace("layers.3.", "layers.3._orig_mod."),
    ],
)
def test_prefixes_of_wrappers_are_removed_and_said(tensors, model_of, caplog, tmp_path, wrapped):
    source = CausalLMSource(str(model_of({wrapped(n): t for n, t in tensors.items()})))
    assert "prefix" in source.check_files()
    model = source.load("cpu")
    assert "prefix" in caplog.text
    for name, tensor in tensors.items():
        assert torch.equal(model.state_dict()[name], tensor.float()), name
    model.save_pretrained(tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(tensors)


def test_check_says_the_prefix(work, capsys, tensors, model_of):
    command("check", model_of({f"_orig_mod.{n}": t for n, t in tensors.items()}))
    assert "'_orig_mod.' was removed" in " ".join(capsys.readouterr().out.split())


def test_names_of_the_model_itself_are_no_prefix(tensors):
    source = CausalLMSource("asset:llama_mini")
    files = find_weight_files(str(MINI), None)
    assert find_wrapper_prefixes(files.shapes(), source.build_meta_model()) == {}
    assert source.check_files() == ""


def test_an_adapter_that_was_not_merged_is_named(tensors, model_of):
    name = "model.layers.0.mlp.up_proj."
    adapted = {f"base_model.model.{n}": t for n, t in tensors.items() if not n.startswith(name)}
    adapted[f"base_model.model.{name}base_layer.weight"] = tensors[f"{name}weight"]
    adapted[f"base_model.model.{name}lora_A.default.weight"] = torch.zeros(4, 256)
    with pytest.raises(UserError, match="lora_A") as caught:
        CausalLMSource(str(model_of(adapted))).load("cpu")
    assert "merge_and_unload" in caught.value.fix


@pytest.fixture
def sharded(model_of, tensors):
    """The shipped model in two shards."""
    folder = model_of(tensors)
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate((names[:40], names[40:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


@pytest.mark.parametrize("verb", ["check", "train"])
def test_an_index_that_names_an_absent_file(work, capsys, sharded, verb):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert command(verb, sharded) == 2
    output = " ".join("".join(capsys.readouterr()).split())
    assert "1 of them are not there: model-00002-of-00002.safetensors" in output


def test_a_shard_that_lacks_what_its_index_names(sharded, tensors):
    CausalLMSource(str(sharded)).check_files()
    file = sharded / "model-00001-of-00002.safetensors"
    save_file(dict(list(load_file(file).items())[:-1]), file, metadata={"format": "pt"})
    for see in (CausalLMSource(str(sharded)).check_files, CausalLMSource(str(sharded)).load):
        with pytest.raises(UserError, match="lack 1 tensor "):
            see()


@pytest.mark.parametrize("verb", ["check", "train"])
def test_a_shard_that_was_cut_off(work, capsys, sharded, verb):
    file = sharded / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert command(verb, sharded) == 2
    assert "model-00002-of-00002.safetensors cannot be read" in " ".join(
        "".join(capsys.readouterr()).split()
    )


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_loading_is_as_strict(tensors, model_of, quantization):
    with pytest.raises(UserError, match="lack 9 tensors"):
        CausalLMSource(str(model_of(without_layer(tensors))), quantization=quantization).load("cpu")


def test_experts_that_are_stored_one_by_one(tmp_path):
    config = MixtralConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, vocab_size=64,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    source, file = CausalLMSource(str(tmp_path)), tmp_path / "model.safetensors"
    assert source.check_files() == ""
    stored = load_file(file)
    one = next(name for name in stored if "experts.2.w1" in name)
    save_file({n: t for n, t in stored.items() if n != one}, file, metadata={"format": "pt"})
    for see in (source.check_files, source.load):
        with pytest.raises(UserError, match=r"experts\.gate_up_proj"):
            see()


def test_a_tied_head_may_be_absent_or_there(tensors, model_of):
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    assert CausalLMSource(str(model_of(tensors | head))).check_files() == ""
    config = AutoConfig.from_pretrained(MINI)
    config.tie_word_embeddings = False
    folder = model_of(tensors, "untied")
    config.save_pretrained(folder)
    with pytest.raises(UserError, match=r"lack 1 tensor \(lm_head.weight\)"):
        CausalLMSource(str(folder)).check_files()


def test_the_header_says_what_a_load_says(tensors):
    changed = wrong_shape(extra(without_layer(tensors)))
    shapes = {name: tuple(tensor.shape) for name, tensor in changed.items()}
    misfit = compare_shapes("it", CausalLMSource("asset:llama_mini").build_meta_model(), shapes, {})
    assert set(misfit.missing) == {name for name in tensors if name.startswith(LAYER)}
    assert list(misfit.mismatched) == [SHAPE]
    assert list(misfit.unexpected) == ["model.layers.8.mlp.up_proj.weight"]


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_parts_of_a_diffusion_model(tmp_path, part):
    source = LdmSource("asset:ldm_emoji", tokenizer="asset:llama_mini", weights="random")
    source.load().save_pretrained(tmp_path)
    whole = LdmSource(str(tmp_path), tokenizer="asset:llama_mini")
    assert whole.check_files() == "" and whole.load() is not None
    file = next((tmp_path / part).glob("*.safetensors"))
    stored = load_file(file)
    gone = sorted(stored)[3]
    save_file({n: t for n, t in stored.items() if n != gone}, file, metadata={"format": "pt"})
    for see in (whole.check_files, whole.load):
        with pytest.raises(UserError, match=f"{part} do not fit .*{gone}"):
            see()
