"""report.md and card.md hold the figures of the run's files, and leave out what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.core.run_dir import RunDir
from ftcli.run.report import write_report

CONFIG = """
seed: 7
model: {path: asset:llama_mini, dtype: float32, quantization: nf4}
data: {path: e2e}
method: {_target_: ftcli.methods.peft.Peft, config_class: peft.LoraConfig, r: 16}
optimizer: {_target_: ftcli.optimizers.library.LibraryOptimizer, lr: 0.002}
"""
RESULT = {
    "status": "finished", "step": 300, "seconds": 200.4, "tokens": 1234567, "tok_s": 5300.2,
    "peak_memory_gb": 1.5, "trainable_parameters": 1000, "total_parameters": 100000,
    "adapter_bytes": 2_000_000,
    "metrics_before": {"eval.loss": 3.7, "eval.bleu": 0.3},
    "metrics": {"eval.loss": 0.95, "eval.bleu": 41.234, "eval.chrf": 60.0},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "demo" / "2026-01-02_03-04-05-abcd"
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "command.txt").write_text("ftcli train configs/qlora_mini.yaml seed=7\n")
    return folder


def finish(folder: Path) -> None:
    (folder / "result.json").write_text(json.dumps(RESULT))
    (folder / "data.json").write_text(
        json.dumps({"licence": "CC BY-SA 4.0", "fingerprint": "3fa1"})
    )
    rows = [{"step": 0, "eval.loss": 3.7}, {"step": 10, "loss": 2.0, "lr": 1e-3, "tok_s": 5e3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, text in ((0, "mumble | mumble"), (300, "The Mill is a pub.")):
        samples = [
            {"prompt": f"name[{i}]", "prediction": text, "references": ["A pub, The Mill."]}
            for i in range(20)
        ]
        path = folder / "samples" / f"{step}-generation.jsonl"
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def test_a_finished_run_has_scores_figures_pictures_and_samples_side_by_side(folder):
    finish(folder)
    text = write_report(RunDir(folder)).read_text()
    assert "| bleu | 0.3 | 41.23 |" in text and "| chrf | – | 60 |" in text
    assert "| optimizer | AdamW (lr=0.002) |" in text
    assert "| trainable parameters | 1,000 of 100,000 (1.00%) |" in text
    assert "| method | LoraConfig (r=16) |" in text and "| weights stored as | nf4 |" in text
    assert "| prompt | step 0 | step 300 | a reference |" in text
    assert "| name[0] | mumble \\| mumble | The Mill is a pub. | A pub, The Mill. |" in text
    assert text.count("The Mill is a pub.") == 6
    assert "ftcli train configs/qlora_mini.yaml seed=7" in text
    for name in ("loss", "learning_rate", "throughput", "before_after"):
        assert f"(plots/{name}.png)" in text and (folder / "plots" / f"{name}.png").exists()


def test_a_run_that_never_logged_gets_a_report_without_the_missing_sections(folder):
    text = write_report(RunDir(folder)).read_text()
    assert "base model" in text
    assert "Scores" not in text and "Pictures" not in text and "Samples" not in text


def test_the_card_names_command_base_and_licence(folder):
    finish(folder)
    write_report(RunDir(folder))
    card = (folder / "card.md").read_text()
    assert (
        card.startswith("---\nbase_model: ftcli/llama_mini\n") and "\nlibrary_name: peft\n" in card
    )
    assert "## Licence of the data\n\nCC BY-SA 4.0" in card and "asset:llama_mini" in card
    assert "ftcli train configs/qlora_mini.yaml seed=7" in card
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("asset:llama_mini", "org/Model-7B"))
    (folder / "data.json").unlink()
    write_report(RunDir(folder))
    card = (folder / "card.md").read_text()
    assert "base_model: org/Model-7B" in card and "not recorded" in card


def test_a_real_run_has_every_part_and_its_card_stands_beside_the_weights(trained_run):
    text = (trained_run / "report.md").read_text()
    for heading in ("Scores", "Figures", "Pictures", "Samples", "How to repeat it"):
        assert f"## {heading}" in text
    assert "| method | LoraConfig (r=4, lora_alpha=32) |" in text
    assert "| trainable parameters | 149,504 of 7,100,672 (2.11%) |" in text
    assert "| bits a quantised weight | 4.2" in text
    assert {path.stem for path in (trained_run / "plots").iterdir()} == {
        "loss", "learning_rate", "throughput", "before_after",
    }  # fmt: skip
    card = (trained_run / "card.md").read_text()
    assert "CC BY-SA 4.0" in card and "library_name: peft" in card
    assert (trained_run / "adapter" / "README.md").read_text() == card


def test_the_optimizer_that_ran_is_the_one_reported(train_tiny):
    """A paged optimizer needs CUDA; elsewhere AdamW replaces it, and the files name AdamW."""
    import torch

    run = train_tiny("optimizer=paged_adamw", "method.r=2", "eval=none", "run.name=paged")
    ran = "PagedAdamW32bit" if torch.cuda.is_available() else "AdamW"
    result = json.loads((run / "result.json").read_text())
    assert result["optimizer"] == ran
    report, card = (run / "report.md").read_text(), (run / "card.md").read_text()
    assert f"| optimizer | {ran} |" in report and f"| optimizer | {ran} |" in card
    if not torch.cuda.is_available():
        assert "| optimizer | AdamW in the place of PagedAdamW32bit (" in report
        assert "PagedAdamW32bit" not in card.replace("optimizer=paged_adamw", "")
