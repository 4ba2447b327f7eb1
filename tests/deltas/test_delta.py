"""Base plus delta is the finetuned model to the bit; what does not belong together is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcli.config import compose
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.deltas import storage
from ftcli.deltas.artefact import Artefact, compute_fingerprint
from ftcli.deltas.delta import Delta, sum_deltas
from ftcli.deltas.weights import FileWeights, LazyWeights, write_weights
from ftcli.run.record import write_config
from tests.deltas.fakes import delta, flat, random
from tests.models.gguf_files import write_llama_mini

BASE = "asset:llama_mini"


def test_base_plus_delta_is_the_finetuned_model_to_the_bit(full_run):
    change, base = Delta.open(full_run), Artefact.open(BASE)
    restored, trained = change.apply(base), load_file(full_run / "model" / "model.safetensors")
    assert restored.keys() == trained.keys()
    assert all(torch.equal(restored[name], trained[name]) for name in trained)
    assert change.norm() > 0 and change.entries == 6951168


def test_the_base_of_a_run_on_a_gguf_file_is_what_the_file_was_converted_to(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))
    file = write_llama_mini(tmp_path / "mini.gguf", "F32")
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    write_config(RunDir(tmp_path / "run"), compose("qlora_mini", [f"model.path={file}"]).config)
    base = Artefact.open(tmp_path / "run").base
    assert base.folder.is_relative_to(tmp_path / "cache")
    assert base.fingerprint == Artefact.open(BASE).fingerprint and base.anatomy.tied


def test_a_difference_of_bfloat16_models_is_exact_too(tmp_path):
    values = [torch.randn(64, 64).bfloat16() * scale for scale in (1.0, 1e-3)]
    base, after = ({"w": v, "v": v[0]} for v in (values[0], values[0] + values[1]))
    change = delta({n: after[n].double() - base[n].double() for n in base}, dtype=torch.bfloat16)
    restored = change.add_to(base)
    assert all(
        torch.equal(restored[n], after[n]) and restored[n].dtype == torch.bfloat16 for n in base
    )


def test_reverting_gives_the_base_back(full_run):
    change, base = Delta.open(full_run), Artefact.open(BASE)
    trained = Artefact.open(full_run).weights
    reverted = change.revert(trained)
    assert all(torch.equal(reverted[n], base.weights[n].float()) for n in change)


def test_scaling_and_composing_are_linear():
    first, second = random(0), random(1)
    assert torch.equal(flat(first.scale(3.0)), 3 * flat(first))
    assert torch.equal(
        flat(sum_deltas([first, second], [2.0, -1.0])), 2 * flat(first) - flat(second)
    )
    assert flat(sum_deltas([first, first.scale(-1)])).abs().max() == 0


@pytest.mark.parametrize("product", [False, True])
def test_a_saved_delta_is_read_back(lora_run, tmp_path, product):
    change = Delta.open(lora_run, product=product)
    size = storage.save_delta(change, tmp_path / "delta")
    again = Delta.open(tmp_path / "delta")
    assert size == (tmp_path / "delta" / "delta.safetensors").stat().st_size
    assert (again.kind, again.base, again.shapes) == (change.kind, change.base, change.shapes)
    assert all(torch.equal(again[n], change[n].float().double()) for n in change)


def test_a_folder_with_content_is_left_alone(tmp_path):
    change = random()
    storage.prepare_target(tmp_path / "new", force=False)
    (tmp_path / "mine.txt").touch()
    for force in (False, True):
        with pytest.raises(UserError, match="exists already|not written by"):
            storage.save_delta(change, tmp_path, force=force)


def test_another_base_is_refused(full_run, lora_run, tmp_path):
    base = Artefact.open(BASE)
    moved = {n: t + 0.01 for n, t in load_file(base.folder / "model.safetensors").items()}
    save_file(moved, tmp_path / "model.safetensors")
    for file in base.small_files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for run in (full_run, lora_run):
        with pytest.raises(UserError, match="not the base this delta was taken from"):
            Delta.open(run).apply(Artefact.open(tmp_path))
    with pytest.raises(UserError, match="different base"):
        sum_deltas([Delta.open(full_run), Delta.open(full_run, tmp_path)])
    with pytest.raises(UserError, match="different kind"):
        sum_deltas([Delta.open(full_run), Delta.open(lora_run)])


def test_a_fingerprint_is_of_values_and_not_of_their_type():
    values = {"a": torch.randn(9, 9).bfloat16(), "count": torch.arange(3)}
    wider = {"a": values["a"].float()}
    assert compute_fingerprint(values) == compute_fingerprint(wider)
    assert compute_fingerprint({"a": wider["a"] + 1e-3}) != compute_fingerprint(wider)
    assert compute_fingerprint({"b": wider["a"]}) != compute_fingerprint(wider)


@pytest.mark.parametrize("rows", [1, 2**14, 49_152])
def test_the_fingerprint_takes_tensors_of_any_size(rows):
    table = torch.zeros(rows, 576, dtype=torch.bfloat16)  # SmolLM2 embeds 49,152 tokens
    before = compute_fingerprint({"embeddings": table})
    table[-1, -1] = 1.0
    assert compute_fingerprint({"embeddings": table}) != before


def test_an_adapter_counts_from_the_origin_of_its_kind(lora_run, train_tiny):
    factors = Delta.open(lora_run)
    stored = load_file(lora_run / "adapter" / "adapter_model.safetensors")
    assert factors.origin == 0 and all(torch.equal(factors[n].float(), stored[n]) for n in stored)
    ia3 = train_tiny("run.name=ia3", "method=ia3", "model.quantization=none", "eval=none")
    change = Delta.open(ia3)
    stored = load_file(ia3 / "adapter" / "adapter_model.safetensors")
    assert change.origin == 1 and change.norm() > 0
    assert all(torch.equal(change.adapter()[n], stored[n]) for n in stored)


def test_the_product_of_factors_is_what_merging_adds(lora_run):
    from ftcli.run.build import open_run

    base = Artefact.open(BASE)
    restored = Delta.open(lora_run, product=True).add_to(base.weights)
    run = open_run(lora_run)
    merged = dict(run.method.merge(run.model).named_parameters())
    assert max((restored[n] - merged[n]).abs().max().item() for n in restored if n in merged) < 1e-6
    assert any(not torch.equal(restored[n], base.weights[n].float()) for n in restored)


def test_a_dora_is_no_product(train_tiny):
    dora = train_tiny("run.name=dora", "method=dora", "model.quantization=none", "eval=none")
    with pytest.raises(UserError, match="no plain product"):
        Delta.open(dora, product=True)


def test_a_tied_head_counts_once(tmp_path):
    base = Artefact.open(BASE)
    tensors = load_file(base.folder / "model.safetensors")
    save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_bytes((base.folder / "config.json").read_bytes())
    assert Artefact.open(tmp_path).fingerprint == base.fingerprint


def test_files_are_written_as_the_library_writes_them(tmp_path):
    tensors = {
        "b": torch.randn(3, 5), "a": torch.arange(4), "h": torch.randn(2).bfloat16(),
        "s": torch.tensor(2.5), "e": torch.zeros(0, 3),
    }  # fmt: skip
    layout = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    write_weights(tmp_path / "x.safetensors", LazyWeights(layout, tensors.__getitem__))
    for read in (load_file(tmp_path / "x.safetensors"), FileWeights(tmp_path)):
        assert {n: t.dtype for n, t in read.items()} == {n: t.dtype for n, t in tensors.items()}
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_one_tensor_exists_at_a_time(tmp_path):
    """Writing base plus delta of twelve tensors holds no more than a few of them."""
    import tracemalloc

    import numpy as np

    size = 1 << 18
    base = {f"t{i:02d}": torch.ones(size, dtype=torch.float32) for i in range(12)}
    change = delta({name: torch.zeros(1) for name in base}).map(lambda _, t: t, "")
    change = Delta(
        "model", "base", {n: (size,) for n in base},
        lambda name: torch.from_numpy(np.ones(size)),  # numpy's memory is what is traced
    )  # fmt: skip
    tracemalloc.start()
    write_weights(tmp_path / "x.safetensors", change.add_to(base))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * size * 8
