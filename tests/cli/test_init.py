"""`ftcli init`: a job that is sound as it is written, fitted to a machine."""

from __future__ import annotations

import json

import pytest
import yaml

from ftcli.config import compose, paths, starter, validate
from ftcli.config.option import content
from ftcli.config.starter import Machine

CPU = Machine("the CPU")
SMALL = Machine("a small GPU", memory_gb=16, bf16=True)
LARGE = Machine("a large GPU", memory_gb=80, bf16=True)


def written(machine, **answers):
    given = {"model": "llama_mini", "data": "e2e", "method": "lora", **answers}
    starter.write(**given, output="job.yaml", machine=machine, force=True)
    composed = compose("job.yaml")
    validate(composed)
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


@pytest.mark.parametrize("method", paths.options("method"))
def test_every_method_makes_a_sound_job(work, method):
    if "???" in paths.options("method")[method].read_text():
        pytest.skip("it needs more than three answers")
    job = written(SMALL, method=method)
    assert job.config["method"]["_target_"] == content(paths.options("method")[method])["_target_"]


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
