"""`ftcli delta` from folder to folder: what it writes opens again, and is not written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ftcli.cli.app import run

EVAL = ("model.quantization=none", "eval.generation=null", "eval.loss.limit=8")


@pytest.fixture(scope="module")
def lora(train_tiny) -> Path:
    return train_tiny("run.name=delta_lora", "method=lora", "method.r=16", *EVAL)


@pytest.fixture(scope="module")
def full(train_tiny) -> Path:
    return train_tiny("run.name=delta_full", "method=full", *EVAL)


def call(capsys, *words: object) -> dict:
    capsys.readouterr()
    status = run([*map(str, words), "--json"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return json.loads(shown.out)


def loss(capsys, folder: Path) -> float:
    return call(capsys, "eval", folder)["loss"]["loss"]


def test_a_compressed_adapter_comes_back_as_a_run(lora, tmp_path, capsys):
    report = call(capsys, "delta", "compress", lora, "--to", tmp_path / "small", "--density", "0.2")
    assert report["figures"]["times smaller than 16 bit"] > 16
    assert report["bytes"] == (tmp_path / "small" / "delta.ternary").stat().st_size
    call(capsys, "delta", "apply", tmp_path / "small", "--to", tmp_path / "back")
    assert (tmp_path / "back" / "adapter" / "adapter_model.safetensors").exists()
    assert loss(capsys, tmp_path / "back") > 0
    assert (
        run(["chat", str(tmp_path / "back"), "--prompt", "name[X]", "--max-new-tokens", "2"]) == 0
    )


def test_a_saved_delta_applied_is_the_run(full, tmp_path, capsys):
    report = call(capsys, "delta", "diff", full, "--to", tmp_path / "delta")
    assert report["figures"]["entries changed by rounding"] < 0.05 * report["figures"]["entries"]
    call(capsys, "delta", "apply", tmp_path / "delta", "--to", tmp_path / "again")
    again, trained = (
        load_file(path / "model" / "model.safetensors") for path in (tmp_path / "again", full)
    )
    assert max((again[n] - trained[n]).abs().max().item() for n in trained) < 1e-8
    assert loss(capsys, tmp_path / "again") == pytest.approx(loss(capsys, full), abs=1e-6)


def test_a_delta_in_float64_goes_there_and_back_to_the_bit(full, tmp_path, capsys):
    to = ("--to", tmp_path / "delta")
    report = call(capsys, "delta", "diff", full, "--dtype", "float64", *to)
    assert report["figures"]["entries changed by rounding"] == 0
    report = call(
        capsys, "delta", "apply", tmp_path / "delta", "--revert", "--base", full / "model",
        "--to", tmp_path / "base",
    )  # fmt: skip
    assert report["figures"]["the base to the bit"] is True


def test_prune_and_scale_write_runs(full, lora, tmp_path, capsys):
    call(capsys, "delta", "prune", full, "--p", "0.5", "--to", tmp_path / "pruned")
    call(capsys, "delta", "scale", lora, "--gamma", "0.5", "--to", tmp_path / "scaled")
    report = call(
        capsys, "delta", "scale", full, full, "--merge", "ties", "--density", "0.5", "--beta", "0.4",
        "--to", tmp_path / "merged",
    )  # fmt: skip
    assert report["figures"]["changes"] == 2 and report["figures"]["alpha"] > 0.5
    for name in ("pruned", "scaled", "merged"):
        assert loss(capsys, tmp_path / name) > 0
        assert json.loads((tmp_path / name / "delta.json").read_text())["history"]


def test_a_soup_of_an_adapter_and_a_model_is_refused_and_one_of_adapters_is_a_model(
    lora, full, tmp_path, capsys
):
    report = call(
        capsys, "delta", "soup", lora, lora, "--recipe", "uniform", "--to", tmp_path / "soup"
    )
    assert "ingredients" in report["figures"]
    assert loss(capsys, tmp_path / "soup") == pytest.approx(loss(capsys, lora), abs=1e-3)
    assert (tmp_path / "soup" / "model" / "config.json").exists()
    assert run(["delta", "soup", str(lora), str(full), "--to", str(tmp_path / "no")]) == 2
    assert "cannot be put together" in capsys.readouterr().err
    assert run(["delta", "soup", str(lora), "--to", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()


def test_a_change_moves_to_another_base(lora, full, tmp_path, capsys):
    target = full / "model"
    call(capsys, "delta", "transfer", lora, "--target", target, "--to", tmp_path / "moved")
    config = json.loads((tmp_path / "moved" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(target)
    assert loss(capsys, tmp_path / "moved") > 0


@pytest.mark.slow
def test_numbers_are_chosen_on_held_out_rows(lora, full, tmp_path, capsys):
    report = call(
        capsys, "delta", "prune", lora, "--p", "0.5", "--method", "darex_q", "--search", "output",
        "--step", "0.5", "--to", tmp_path / "a",
    )  # fmt: skip
    assert 0.05 < report["figures"]["q"] <= 1.5
    report = call(capsys, "delta", "scale", full, "--control", full, "--to", tmp_path / "b")
    gammas = {k: v for k, v in report["figures"].items() if k.startswith("gamma")}
    assert len(gammas) == 11 and report["figures"]["alpha"] + report["figures"]["beta"] == 1
    report = call(capsys, "delta", "soup", lora, lora, "--split", "test", "--to", tmp_path / "c")
    assert report["figures"]["eval.loss on test"] > 0


def test_a_factor_is_of_the_change_and_not_of_both_factors(lora, tmp_path, capsys):
    from ftcli.deltas.delta import Delta

    call(capsys, "delta", "apply", lora, "--scale", "0.5", "--to", tmp_path / "half")
    whole, half = (Delta.open(path, product=True) for path in (lora, tmp_path / "half"))
    assert half.norm() == pytest.approx(whole.norm() / 2, rel=1e-5)


def test_nothing_is_written_over(lora, tmp_path, capsys):
    words = ["delta", "diff", str(lora), "--to", str(tmp_path / "delta")]
    assert run(words) == 0
    assert "entries" in capsys.readouterr().out
    assert run(words) == 2 and "exists already" in capsys.readouterr().err
    assert run([*words, "--force"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    assert run(["delta", "diff", str(lora), "--to", str(tmp_path / "mine"), "--force"]) == 2


def test_mistakes_are_said(lora, tmp_path, capsys):
    to = ["--to", str(tmp_path / "x")]
    for words, says in (
        (["scale", str(lora)], "neither gamma nor beta"),
        (["prune", str(lora), "--method", "darex_q"], "needs a q"),
        (["diff", str(tmp_path)], "neither a run"),
        (["prune", str(lora), "--p", "1.5"], "not a share"),
    ):
        assert run(["delta", *words, *to]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_compressed_adapter_brings_no_tokenizer_that_its_base_has(lora, tmp_path, capsys):
    call(capsys, "delta", "compress", lora, "--to", tmp_path / "small")
    whole = sum(f.stat().st_size for f in (tmp_path / "small").rglob("*") if f.is_file())
    assert whole < 1.1 * (tmp_path / "small" / "delta.ternary").stat().st_size
    call(capsys, "delta", "apply", tmp_path / "small", "--to", tmp_path / "back")
    for folder in (lora / "adapter", tmp_path / "back" / "adapter"):
        assert (folder / "tokenizer.json").exists()
