"""lm-eval opens the merged folder and measures what ftcli's own loss is made of."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from ftcli.deltas.merge import merge_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="pip install lm-eval"),
]
TASK = """
task: restaurants
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: ["{{{{answer}}}}", "{{{{wrong}}}}"]
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def test_the_loglikelihood_of_lm_eval_is_that_of_our_loss(trained_run, tmp_path, monkeypatch):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from ftcli.run.run import Run

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "merged"
    merge_run(trained_run, folder)
    run = Run.from_dir(trained_run)
    tokens = run.data.prepare("train", run.tokenizer)
    rows = [tokens.row(index) for index in range(6)]
    docs, ours = [], []
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"][:-1]), torch.tensor(row["labels"][:-1])
        learned = labels != -100
        with torch.no_grad():
            logits = run.model(ids[None]).logits[0].float()
        likely = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        ours.append(likely[learned[1:]].sum().item())
        prompt = run.tokenizer.decode(ids[~learned])
        docs.append(
            {"prompt": prompt, "answer": run.tokenizer.decode(ids[learned]), "wrong": "No."}
        )
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "restaurants.yaml").write_text(TASK.format(file=file))

    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2),
        tasks=["restaurants"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["restaurants"], key=lambda sample: sample["doc_id"])
    theirs = [sample["filtered_resps"][0][0] for sample in samples]
    assert theirs == pytest.approx(ours, rel=1e-4)
