"""The same small sweep through every launcher, each with its packaged config."""

from __future__ import annotations

import os
import sys

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import OK, UserError
from ftcli.sweeps import composition
from ftcli.sweeps.launchers.local import Local, count_cores, list_gpus
from ftcli.sweeps.sweep import start_sweep

AXES = ["method.r=2,4", "optimizer.lr=1e-2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package", "words"),
    [
        ("local", "ftcli", []),
        ("submitit", "submitit", ["launcher.cluster=local", "launcher.timeout_min=10"]),
        ("ray", "ray", ["launcher.cpus=0.5"]),
    ],
)
def test_every_launcher_trains_the_same_trials(tmp_path, plan, name, package, words):
    pytest.importorskip(package)
    done = start_sweep(plan(*AXES, *words, launcher=name, jobs=2), tmp_path)
    assert done.status == OK, done.note
    assert [trial.status for trial in done.trials] == ["finished"] * 2
    scores = [trial.score("eval.loss") for trial in done.trials]
    assert all(1 < score < 6 for score in scores) and scores[0] != scores[1]
    for trial in done.trials:  # nothing but the folder and its record went to the worker
        assert {"config.yaml", "result.json", "metrics.jsonl", "adapter"} <= {
            path.name for path in trial.folder.iterdir()
        }
        assert "launcher" not in (trial.folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("submitit", "submitit", "slurm"), ("ray", "ray", "ray")]
)
def test_a_missing_package_names_the_command(tmp_path, monkeypatch, name, package, extra):
    launcher = composition.build_launcher("qlora_mini", name, [])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        launcher.open(tmp_path, 1)
    assert caught.value.fix == f"pip install 'ftcli[{extra}]'"


@pytest.mark.slow
def test_one_run_is_submitted_to_machines(tmp_path):
    submitit = pytest.importorskip("submitit")
    words = [
        "launcher.cluster=local",
        "launcher.nodes=1",
        "launcher.processes=2",
        "launcher.gpus_per_node=null",
    ]
    launcher = composition.build_launcher("qlora_mini", "slurm_nodes", words)
    job = [
        "qlora_mini",
        "data.limit=40",
        "trainer.max_steps=2",
        "trainer.batch_size=2",
        "eval=none",
    ]
    job += ["trainer=fsdp2", "method=lora", "model.quantization=none", f"run.dir={tmp_path}"]
    number = launcher.submit(job, tmp_path / "slurm")
    assert submitit.LocalJob(tmp_path / "slurm", number).result() == OK
    (result,) = {path.resolve() for path in tmp_path.glob("*/*/result.json")}
    assert len(list((result.parent / "checkpoints/last").glob("shard-*.safetensors"))) == 2


def test_machines_of_a_run_are_no_workers_of_a_sweep(tmp_path):
    launcher = composition.build_launcher("qlora_mini", "slurm_nodes", ["launcher.nodes=4"])
    assert launcher.nodes == 4 and launcher.gpus_per_node == 8
    with pytest.raises(UserError, match="distributes one run"):
        launcher.start(tmp_path, 0)


def test_settings_of_a_launcher_are_keys_like_any_other():
    words = ["launcher.partition=a100", "launcher.gpus_per_node=1", "+launcher.slurm.qos=high"]
    launcher = composition.build_launcher("qlora_mini", "submitit", words)
    assert (launcher.partition, launcher.gpus_per_node, launcher.slurm) == (
        "a100",
        1,
        {"qos": "high"},
    )
    with pytest.raises(UserError, match="Did you mean launcher.partition"):
        composition.build_launcher("qlora_mini", "submitit", ["launcher.partitoin=a100"])
    with pytest.raises(UserError, match="slrum"):
        composition.build_launcher("qlora_mini", "slrum", [])


def test_a_job_may_bring_its_launcher_and_it_is_no_part_of_a_trial(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(
        "defaults: [qlora_mini, {launcher: submitit}, _self_]\nlauncher: {timeout_min: 30}\n"
    )
    launcher = composition.build_launcher(str(job), None, [])
    assert type(launcher).__name__ == "Submitit" and launcher.timeout_min == 30
    assert isinstance(
        composition.build_launcher(str(job), "local", ["~launcher.timeout_min"]), Local
    )
    assert "launcher" not in composition.compose_trial(str(job), []).config
    validate_and_convert(compose(job))


def test_words_about_the_launcher_are_told_from_those_of_the_run():
    words = ["launcher.cpus=2", "method.r=2,4", "++launcher.gpus=1", "launcher=ray", "seed=1"]
    about, other_words = composition.split_launcher_words(words)
    assert about == ["launcher.cpus=2", "++launcher.gpus=1", "launcher=ray"]
    assert other_words == ["method.r=2,4", "seed=1"]


def test_trials_at_a_time_divide_threads_and_take_gpus_in_turn(tmp_path, monkeypatch):
    started = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(
        "ftcli.sweeps.launchers.local.start_worker", lambda folder, env: started.append(env)
    )
    monkeypatch.setattr("ftcli.sweeps.launchers.local.count_cores", lambda: 16)
    parallel = Local()
    parallel.open(tmp_path, 4)
    for slot in range(3):
        parallel.start(tmp_path, slot)
    assert [env["OMP_NUM_THREADS"] for env in started] == ["4"] * 3
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["3", "5", "3"]
    single = Local()
    single.open(tmp_path, 1)
    single.start(tmp_path, 0)
    assert started[-1] == {}  # alone it has the machine


def test_cores_and_gpus_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert list_gpus() == [] and 1 <= count_cores() <= os.cpu_count()
