"""`ftcli init`: a job that is sound as it is written, fitted to a machine."""

from __future__ import annotations

import json

import pytest
import yaml

from ftcli.config import compose, paths, validate_and_convert
from ftcli.config.yaml_locations import read_option
from ftcli.jobs import starter
from ftcli.jobs.starter import Machine

CPU = Machine("the CPU")
SMALL = Machine("a small GPU", memory_gb=16, bf16=True)
LARGE = Machine("a large GPU", memory_gb=80, bf16=True)


def written(machine, **answers):
    options = {"model": "llama_mini", "data": "e2e", "method": "lora", **answers}
    starter.write_job(**options, output="job.yaml", machine=machine, force=True)
    composed = compose("job.yaml")
    validate_and_convert(composed)
    return composed


def test_the_verb_writes_a_commented_job_that_is_sound(ftcli, work):
    done = ftcli("init", "--method", "dora")
    assert done.status == 0 and "ftcli check job.yaml" in done.out
    text = (work / "job.yaml").read_text()
    assert all(
        "#" in line for line in text.splitlines() if line.startswith("  ") and "path" not in line
    )
    assert ftcli("show", "job.yaml").status == 0
    assert yaml.safe_load(text)["defaults"][2] == {"method": "dora"}


def test_an_existing_file_is_kept_unless_forced(ftcli, work):
    (work / "job.yaml").write_text("mine\n")
    assert ftcli("init").status == 2
    assert (work / "job.yaml").read_text() == "mine\n"
    done = ftcli("init", "--force", "--json")
    assert json.loads(done.out)["file"] == "job.yaml"


@pytest.mark.parametrize(
    ("machine", "method", "stored", "precision", "checkpointing"),
    [
        (CPU, "lora", "none", "fp32", False),
        (SMALL, "lora", "nf4", "bf16", True),
        (SMALL, "full", "none", "bf16", True),
        (LARGE, "lora", "none", "bf16", False),
    ],
)
def test_settings_fit_the_machine_and_the_method(
    work, machine, method, stored, precision, checkpointing
):
    job = written(machine, method=method)
    assert job.get("model.quantization") == stored
    assert job.get("trainer.precision") == precision
    assert job.get("trainer.gradient_checkpointing", False) is checkpointing
    assert job.get("optimizer.lr") == (2e-5 if method == "full" else 2e-4)


@pytest.mark.parametrize("method", paths.list_options("method"))
def test_every_method_makes_a_sound_job(work, method):
    if "???" in paths.list_options("method")[method].read_text():
        pytest.skip("it needs more than three answers")
    job = written(SMALL, method=method)
    assert (
        job.config["method"]["_target_"]
        == read_option(paths.list_options("method")[method])["_target_"]
    )


def test_a_hub_id_and_a_file_are_given_as_paths(work):
    (work / "my.jsonl").write_text("{}\n")
    job = written(CPU, model="someone/some-model", data="my.jsonl")
    assert job.get("model.path") == "someone/some-model"
    assert job.get("data.path") == "my.jsonl"
    assert job.get("data.validation") == 0.05
    assert list(job.config["eval"]) == ["loss"]


def test_a_wrong_answer_names_the_nearest_and_writes_nothing(ftcli, work):
    wrong = ftcli("init", "--method", "lroa")
    assert wrong.status == 2 and "Closest: lora" in wrong.err
    assert list(work.iterdir()) == []


TOWNS = "Oslo Rome Lima Cairo Paris Quito Delhi Tunis Graz Bern Kyiv Riga Nice Lyon Bonn Baku Male Doha".split()


def few(path, count=30):
    """Rows of which each answer can be learned."""
    rows = [
        {
            "prompt": f"Where is {TOWNS[i % 18]} {i // 18}?",
            "completion": f"{TOWNS[i % 18]} lies by the sea.",
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def test_thirty_rows_give_a_job_that_learns_them(ftcli, work):
    few(work / "my.jsonl")
    assert ftcli("init", "--data", "my.jsonl").status == 0
    assert ftcli("check", "job.yaml").status == 0
    assert ftcli("train", "job.yaml", "trainer.log_every=1").status == 0
    metrics = work / "runs" / "job" / "latest" / "metrics.jsonl"
    losses = [m["loss"] for m in map(json.loads, metrics.read_text().splitlines()) if "loss" in m]
    assert len(losses) >= 50 and sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize(("rows", "batch", "epochs"), [(8, 4, 20.0), (30, 4, 8.0), (400, 8, 1.0)])
def test_few_rows_get_smaller_batches_and_more_passes(work, rows, batch, epochs):
    job = written(CPU, data=few(work / "my.jsonl", rows))
    assert (job.get("trainer.batch_size"), job.get("trainer.epochs")) == (batch, epochs)
    assert job.get("optimizer.lr") == 5e-4


def test_many_rows_get_one_pass(work):
    job = written(LARGE, data=few(work / "my.jsonl", 1200))
    assert (job.get("trainer.batch_size"), job.get("trainer.epochs")) == (16, 1.0)


@pytest.mark.parametrize(
    ("row", "format", "columns"),
    [
        ({"instruction": "Where is Oslo?", "context": "Oslo is a city.", "response": "There.", "category": "x"},
         "instruction", {"input": "context", "output": "response"}),
        ({"question": "1+1?", "answer": "2"}, "instruction", {"instruction": "question", "output": "answer"}),
        ({"conversation": [{"input": "a", "output": "b"}]}, "chat", {"messages": "conversation"}),
        ({"instruction": "a", "input": "", "output": "b", "text": "a b"}, "instruction", None),
    ],
)  # fmt: skip
def test_odd_columns_are_mapped_so_that_check_accepts_the_job(ftcli, work, row, format, columns):
    (work / "my.jsonl").write_text((json.dumps(row) + "\n") * 4)
    assert ftcli("init", "--data", "my.jsonl").status == 0
    job = compose("job.yaml")
    assert (job.get("data.format"), job.get("data.columns")) == (format, columns)
    assert job.get("data.validation") is None  # every row asks the same
    assert ftcli("check", "job.yaml").status == 0


@pytest.mark.parametrize(
    "row", [{"src": "a", "dst": "b"}, {"text": "a", "role": "user", "parent_id": "x"}]
)
def test_columns_that_fit_nothing_are_named_and_nothing_is_written(ftcli, work, row):
    (work / "my.jsonl").write_text((json.dumps(row) + "\n") * 4)
    wrong = ftcli("init", "--data", "my.jsonl")
    assert wrong.status == 2 and f"columns are [{', '.join(row)}]" in wrong.err
    assert [path.name for path in work.iterdir()] == ["my.jsonl"]
