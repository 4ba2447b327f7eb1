"""What a claim can name: figures of a run, and measurements of NF4, adapters and gradients."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from ftcli.config.recipe import describe_unknown_measure, is_exact_measure, list_measures
from ftcli.core import code
from ftcli.reproduce import measure


@pytest.fixture(scope="module")
def folder(trained_run, tmp_path_factory):
    """A copy of a finished run: figures are kept in it."""
    copy = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(trained_run, copy, symlinks=True)
    return copy


def test_figures_by_name(folder):
    result = json.loads((folder / "result.json").read_text())
    before, after = result["metrics_before"]["eval.loss"], result["metrics"]["eval.loss"]
    assert measure.read_metric("eval.loss", folder) == after
    assert measure.read_metric("before.eval.loss", folder) == before
    assert measure.read_metric("change.eval.loss", folder) == after - before
    assert measure.read_metric("trainable_parameters", folder) == result["trainable_parameters"]
    with pytest.raises(measure.MetricUnavailable, match=r"no eval\.mmlu; they have .*eval\.loss"):
        measure.read_metric("eval.mmlu", folder)


def test_the_nf4_of_the_library_is_that_of_the_paper(folder):
    from ftcli.papers.qlora.measures import normal_float_code

    printed = [-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0,
               0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]  # fmt: skip
    assert normal_float_code() == pytest.approx(printed, abs=1e-6)
    assert measure.read_metric("nf4_code_error", folder) < 1e-6
    assert measure.read_metric("nf4_roundtrip_error", folder) == 0
    assert measure.read_metric("nf4_gaussian_error", folder) == pytest.approx(0.092, abs=5e-4)
    assert measure.read_metric("nf4_bits", folder) == pytest.approx(4.127, abs=1e-3)


def test_promises_of_an_adapter_on_a_quantised_base(folder):
    assert measure.read_metric("lora_count_excess", folder) == 0
    assert measure.read_metric("step0_difference", folder) == 0
    assert measure.read_metric("changed_base_tensors", folder) == 0
    assert measure.read_metric("evaluation_gradient_change", folder) == 0


def test_a_changed_base_is_seen(train_tiny):
    """Norms are part of the base: a method that trains them changes what it should not."""
    from ftcli.reproduce.measures import changed_base_tensors as module

    run = train_tiny("method.r=2", "eval=none", "~method.lora_alpha", "run.name=changed")
    before = module._hashes(_model(run))
    after = module._hashes(_model(run, touched=True))
    assert [name for name in before if before[name] != after[name]] != []


def _model(run, touched: bool = False):
    import torch

    from ftcli.reproduce.probe import rebuild_run

    model = rebuild_run(run).load_model()
    if touched:
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if n.endswith("norm.weight")).add_(1e-3)
    return model


def test_a_figure_is_kept_while_code_and_libraries_stay(folder):
    kept = folder / "measures" / "nf4_bits.json"
    first = measure.read_metric("nf4_bits", folder)
    record = json.loads(kept.read_text())
    kept.write_text(json.dumps(record | {"value": 5.0}))
    assert measure.read_metric("nf4_bits", folder) == 5.0, "it is not measured at every look"
    for part, other in (
        ("code", "0" * 16),
        ("libraries", {"torch": "1.0"}),
        ("beside", {"a": "b"}),
    ):
        state = record["state"] | {part: other}
        kept.write_text(json.dumps({"value": 5.0, "state": state}))
        assert measure.read_metric("nf4_bits", folder) == first, part


def test_a_value_planted_under_the_hash_of_its_own_small_file_is_not_taken(folder):
    """That hash was all that once stood for its code."""
    file_hash = hashlib.sha256(
        Path(find_spec(list_measures()["nf4_bits"].module).origin).read_bytes()
    ).hexdigest()[:12]
    kept = folder / "measures" / "nf4_bits.json"
    kept.write_text(json.dumps({"value": 5.0, "code": file_hash}))
    assert measure.read_metric("nf4_bits", folder) == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize("called", ["ftcli/models/bits.py", "ftcli/methods/peft.py"])
def test_a_change_of_what_a_measure_or_the_run_calls_is_noticed(folder, called, tmp_path):
    """`bits` is called by the measure nf4_bits, `peft` is the run's method."""
    import shutil

    from ftcli.config import load

    config = load(folder / "config.yaml").config
    roots = ["ftcli.papers.qlora.measures", *code.roots_of(config)]
    skip = shutil.ignore_patterns("assets", "__pycache__")
    shutil.copytree(code.ROOT / "ftcli", tmp_path / "ftcli", ignore=skip)
    assert code.digest(roots, tmp_path) == measure._cache_state("nf4_bits", folder)["code"]
    (tmp_path / called).write_text((tmp_path / called).read_text() + "\nLATER = 1\n")
    assert code.digest(roots, tmp_path) != measure._cache_state("nf4_bits", folder)["code"]


def test_a_name_that_means_nothing_names_the_nearest():
    assert (
        describe_unknown_measure("nf4_bits") is None
        and describe_unknown_measure("eval.anything") is None
    )
    assert "Did you mean nf4_bits?" in (describe_unknown_measure("nf4_bit") or "")
    assert is_exact_measure("nf4_bits") and is_exact_measure("plan.parameters")
    assert not is_exact_measure("eval.loss") and not is_exact_measure("seconds")
