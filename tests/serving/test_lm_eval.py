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
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: perplexity, aggregation: perplexity, higher_is_better: false}}]
"""


def test_the_loglikelihood_of_lm_eval_is_that_of_our_loss(trained_run, tmp_path, monkeypatch):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from ftcli.run.build import open_run

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "merged"
    merge_run(trained_run, folder)
    run = open_run(trained_run)
    tokens = run.data.prepare("train", run.tokenizer)
    rows = [tokens.row(index) for index in range(6)]
    docs, ours = [], []
    for row in rows:
        ids = torch.tensor(row["input_ids"])
        # lm-eval takes blanks at the end of a context for the beginning of the continuation: so do
        # we, from the line break on
        start = int((torch.tensor(row["labels"]) != -100).nonzero()[0]) - 1
        labels = ids.clone()
        labels[:start] = -100
        ids, labels = ids[:-1], labels[:-1]  # its text has no end token
        batch = {"input_ids": ids[None], "labels": labels[None]}
        batch["attention_mask"] = torch.ones_like(ids[None])
        with torch.no_grad():
            losses = run.objective(run.model, batch)
        ours.append(-losses.values.sum().item())
        docs.append(
            {
                "prompt": run.tokenizer.decode(ids[:start]),
                "answer": run.tokenizer.decode(ids[start:]),
            }
        )
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "restaurants.yaml").write_text(TASK.format(file=file))

    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2),
        tasks=["restaurants"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["restaurants"], key=lambda sample: sample["doc_id"])
    theirs = [sample["filtered_resps"][0][0] for sample in samples]
    assert theirs == pytest.approx(ours, rel=1e-4)
