"""A small recipe, and runs whose figures are made up, so that judging is tested without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

RECIPE = """# A tiny recipe
defaults: [qlora_mini, override eval: loss, _self_]
data: {limit: 24}
trainer: {max_steps: 3, batch_size: 2, log_every: 1, eval_every: null}
run: {dir: %s}
paper: {title: A paper, arxiv: "2000.00001", year: 2020}
baselines:
  lora16: [method=lora, model.quantization=none]
  fp4: [model.quantization=fp4]
claims:
  - {say: few bits, measure: bits_per_parameter, kind: exact, at_most: 4.5, paper: 4.127, verified: true}
  - {say: as good as 16-bit LoRA, measure: eval.loss, kind: statistical, central: true, of: lora16, within: 0.1}
  - {say: better than FP4, measure: eval.loss, kind: statistical, of: fp4, less_than: 0}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """recipes/small/tiny.yaml: three claims, two baselines."""
    folder = tmp_path / "small"
    folder.mkdir()
    path = folder / "tiny.yaml"
    path.write_text(RECIPE % (tmp_path / "runs"))
    return path


class Pretended:
    """Stands for `trial.complete`: writes what a run would, with a loss by quantisation and seed."""

    def __init__(self) -> None:
        self.losses: Mapping[str, float] = {"nf4": 2.0, "none": 1.98, "fp4": 2.2}
        self.calls: list[tuple[str, int]] = []
        self.dies_after: int | None = None

    def __call__(self, composed: Any, path: Path, quiet: bool = True) -> dict[str, Any]:
        from ftcli.core.atomic import write_json
        from ftcli.core.run_dir import RunDir

        if self.dies_after is not None and len(self.calls) >= self.dies_after:
            raise KeyboardInterrupt
        kind, seed = composed.config["model"]["quantization"], composed.config["seed"]
        self.calls.append((kind, seed))
        loss = self.losses[kind] + 0.3 * seed + 0.002 * (seed % 2 if kind == "nf4" else 0)
        path.mkdir(parents=True)
        for step in range(4):
            RunDir(path).append_metrics({"step": step, "loss": 4 - step * (4 - loss) / 3})
        RunDir(path).append_metrics({"step": 0, "eval.loss": 4.0})
        RunDir(path).append_metrics({"step": 3, "eval.loss": loss})
        result = {
            "status": "finished", "metrics": {"eval.loss": loss}, "seconds": 1.0 + seed,
            "metrics_before": {"eval.loss": 4.0}, "trainable_parameters": 100,
            "peak_memory_gb": 0.5,
        }  # fmt: skip
        result |= {} if kind == "none" else {"bits_per_parameter": 4.21}
        write_json(path / "result.json", result)
        (path / "report.md").touch()
        return result


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Runs are made up; their figures can be set."""
    from ftcli.jobs import trial

    fake = Pretended()
    monkeypatch.setattr(trial, "complete_job", fake)
    return fake


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> str:
    """As if code and recipe were those of a commit."""
    from ftcli.reproduce import origin

    monkeypatch.setattr(origin, "require_commit", lambda recipe: None)
    monkeypatch.setattr(origin, "current_commit", lambda: "c0ffee" * 6)
    return "c0ffee" * 6


@pytest.fixture
def reproduce(recipe_file: Path) -> Callable[..., Any]:
    """`reproduce(seeds=1, text=(old, new))`: the recipe, changed, run and judged."""
    from ftcli.config import recipe_reading as reading
    from ftcli.reproduce.reproduction import Reproduction

    def run(*changes: tuple[str, str], **options: Any) -> Reproduction:
        text = recipe_file.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        recipe_file.write_text(text)
        reproduction = Reproduction(reading.find_recipe(str(recipe_file)), **options)
        reproduction.run(lambda step: None)
        return reproduction

    return run
