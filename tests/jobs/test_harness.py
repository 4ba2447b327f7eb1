"""lm-eval judges the trained model by tasks from a folder; what they could run as code is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from ftcli.cli.app import run as ftcli
from ftcli.core.errors import UserError
from ftcli.jobs.harness_folder import check_task_folder

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="pip install 'ftcli[lm-eval]'"
)
TASK = """
task: arc_easy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\n"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{choices.index(answer)}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
METRICS = {"acc"}
CHOICES = ["There is a pub in the city centre.", "The price is high."]


@pytest.fixture
def folder(trained_run, tmp_path) -> Path:
    """A copy, since judging writes into the run."""
    return shutil.copytree(trained_run, tmp_path / "run", symlinks=True)


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> Path:
    """A folder with a task of eight questions."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "tasks"
    place.mkdir()
    rows = [
        {"question": f"area[{i}]", "choices": CHOICES, "answer": CHOICES[i % 2]} for i in range(8)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "arc.yaml").write_text(TASK.format(file=place / "rows.jsonl"))
    return place


def judge(folder: Path) -> float:
    """The share of questions whose answer is the likelier one, by the trained model alone."""
    from ftcli.run.build import open_run

    run = open_run(folder)
    right = 0
    for i in range(8):
        sums = []
        for choice in CHOICES:
            start = run.tokenizer(f"area[{i}]\n", add_special_tokens=False).input_ids
            whole = run.tokenizer(f"area[{i}]\n{choice}", add_special_tokens=False).input_ids
            with torch.no_grad():
                logits = run.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            sums.append(sum(logits[k - 1, whole[k]].item() for k in range(len(start), len(whole))))
        right += sums.index(max(sums)) == i % 2
    return right / 8


@installed
def test_a_local_task_is_judged_offline_and_kept(folder, tasks, capsys):
    words = ["eval", str(folder), "--tasks", "loss,arc_easy", "--task-path", str(tasks), "--json"]
    assert ftcli(words) == 0
    scores = json.loads(capsys.readouterr().out)
    kept = json.loads((folder / "eval" / "arc_easy.json").read_text())
    assert scores["arc_easy"] == kept["scores"] == {"acc": judge(folder)}
    assert kept["rows"] == 8 and kept["step"] == 3 and 0 < kept["standard_errors"]["acc"] < 0.5
    result = json.loads((folder / "result.json").read_text())
    assert scores["loss"]["loss"] == result["metrics"]["eval.loss"]


@installed
def test_a_bare_model_and_few_rows(tasks, capsys):
    words = ["--tasks", "arc_easy", "--task-path", str(tasks), "--limit", "3"]
    assert ftcli(["eval", "asset:llama_mini", *words]) == 0
    out = capsys.readouterr().out
    assert "arc_easy" in out and "±" in out


@installed
def test_a_bare_model_is_loaded_as_ftcli_loads_models(tasks, tmp_path, capsys):
    """A pickled model is not read."""
    from ftcli.models.hub import ASSETS

    model = tmp_path / "model"
    shutil.copytree(ASSETS / "models" / "llama_mini", model)
    (weights,) = model.glob("*.safetensors")
    weights.rename(model / "pytorch_model.bin")
    words = ["--tasks", "arc_easy", "--task-path", str(tasks)]
    assert ftcli(["eval", str(model), *words]) == 2
    assert "safetensors" in capsys.readouterr().err


@installed
@pytest.mark.slow  # lm-eval reads the files of all of its tasks
def test_an_unknown_task_and_one_whose_data_are_away(folder, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert ftcli(["eval", str(folder), "--tasks", "arc_eazy"]) == 2
    assert "arc_easy" in capsys.readouterr().err
    assert ftcli(["eval", str(folder), "--tasks", "arc_easy"]) == 2
    assert "--task-path FOLDER" in capsys.readouterr().err


@installed
def test_templates_do_not_reach_python(folder, tasks, capsys):
    file = tasks / "arc.yaml"
    file.write_text(file.read_text().replace("{{question}}", "{{''.__class__.__mro__}}"))
    assert ftcli(["eval", str(folder), "--tasks", "arc_easy", "--task-path", str(tasks)]) != 0
    assert "unsafe" in capsys.readouterr().err


def test_the_missing_package_names_the_command(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert ftcli(["eval", str(folder), "--tasks", "arc_easy"]) == 2
    assert "pip install 'ftcli[lm-eval]'" in capsys.readouterr().err


def test_without_lm_eval_a_misspelt_evaluator_is_told_the_evaluators(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert ftcli(["eval", str(folder), "--tasks", "los"]) == 2
    assert "evaluators of the run: loss" in capsys.readouterr().err


@installed
@pytest.mark.slow  # lm-eval reads the files of all of its tasks
def test_a_misspelt_evaluator_is_found(folder, capsys):
    assert ftcli(["eval", str(folder), "--tasks", "los"]) == 2
    assert "Closest: loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "task: x\nprocess_docs: !function helpers.clean\n",
        "%TAG !e! !func\n---\ntask: x\nprocess_docs: !e!tion helpers.clean\n",
        'task: x\n"\\x63lass": !function helpers.Task\n',
        "task: x\nclass: helpers.Task\n",
        "task: x\nmetric_list:\n  - {metric: !function helpers.score}\n",
        "task: x\ninclude: ../../other.yaml\n",
        "task: x\ninclude: [a.yaml, /etc/other.yaml]\n",
        "task: x\nx: !!python/object/apply:os.system [id]\n",
        "task: x\nmetric_list: [{metric: some/space}]\n",
        "task: x\nname: &name some/space\nmetric_list: [{metric: *name}]\n",
        "task: x\nmetric_list: [{metric: acc, hf_evaluate: true}]\n",
    ],
)
def test_code_in_a_task_is_refused_unless_trusted(tmp_path, text):
    (tmp_path / "fine.yaml").write_text("task: y\ninclude: _base\nmetric_list: [{metric: acc}]\n")
    (tmp_path / "_base").write_text("output_type: multiple_choice\n")
    check_task_folder(tmp_path, trusted=False, metrics=METRICS)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "task.yaml").write_text(text)
    with pytest.raises(UserError, match="task.yaml:"):
        check_task_folder(tmp_path, trusted=False, metrics=METRICS)
    check_task_folder(tmp_path, trusted=True, metrics=METRICS)


def test_code_in_an_included_file_of_any_name_is_refused(tmp_path):
    (tmp_path / "task.yaml").write_text("task: x\ninclude: _base\n")
    (tmp_path / "_base").write_text("include: _other\n")
    (tmp_path / "_other").write_text("process_docs: !function helpers.clean\n")
    with pytest.raises(UserError, match="_other:1"):
        check_task_folder(tmp_path, trusted=False, metrics=METRICS)


def test_a_folder_without_tasks(tmp_path):
    with pytest.raises(UserError, match="holds no YAML file"):
        check_task_folder(tmp_path, trusted=False, metrics=METRICS)
    with pytest.raises(UserError, match="no such folder"):
        check_task_folder(tmp_path / "none", trusted=False, metrics=METRICS)


def test_a_broken_file_says_that_the_whole_folder_is_read(tmp_path):
    (tmp_path / "task.yaml").write_text("task: x\n  y: [\n")
    with pytest.raises(UserError, match="not a YAML file") as refused:
        check_task_folder(tmp_path, trusted=False, metrics=METRICS)
    assert "--task-path" in refused.value.fix
