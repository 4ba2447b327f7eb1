"""Configurations of a stranger: each tries to run code, to write elsewhere, or to read a secret."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from ftcli.config import build, compose, load, validate_and_convert
from ftcli.config.classpath import COMPONENTS, LIBRARIES, ClassNotAllowed, fetch_class
from ftcli.core.errors import UserError

JOB = "defaults: [qlora_mini, _self_]\n"
BARE = {
    "os.system": {"_target_": "os.system", "command": "{shell}"},
    "subprocess": {"_target_": "subprocess.Popen", "args": ["touch", "{marker}"]},
    "eval": {"_target_": "builtins.eval", "source": "{code}"},
    "a module beside the job": {"_target_": "evil.Evil"},
    "a function of ftcli that writes": {
        "_target_": "ftcli.core.atomic.write_text", "path": "{marker}", "text": "x",
    },
    "a class of ftcli's machinery": {"_target_": "ftcli.core.run_dir.RunDir", "path": "{marker}"},
    "a class that a room imports": {"_target_": "ftcli.methods.reexports.Popen",
                                    "args": ["touch", "{marker}"]},
    "a function that a room imports": {"_target_": "ftcli.methods.reexports.system",
                                       "command": "{shell}"},
    "what a room's module really imports": {"_target_": "ftcli.data.media.sources.Path"},
    "a function of a room": {"_target_": "ftcli.methods.reexports.own"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_trains(monkeypatch):
    """Where a guard fails, a test must not go on to train."""

    def start(*_: object) -> None:
        raise AssertionError("the job was taken")

    for name in (
        "ftcli.jobs.train.train",
        "ftcli.sweeps.composition.write_trial",
        "ftcli.sweeps.sweep._run_sweep",
    ):
        monkeypatch.setattr(name, start)


def filled(node, attack):
    """The node with the attacker's words in it."""
    if isinstance(node, dict):
        return {key: filled(value, attack) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, attack) for value in node]
    words = {"{shell}": attack.shell, "{marker}": str(attack.marker), "{code}": attack.code.strip()}
    return words.get(node, node)


@pytest.fixture
def reexports(attack, monkeypatch):
    """A module of a room as it might be written: it imports what runs commands, and has a function."""
    module = types.ModuleType("ftcli.methods.reexports")
    module.Popen, module.system = subprocess.Popen, os.system  # type: ignore[attr-defined]

    def own() -> None:
        attack.marker.touch()

    own.__module__ = module.__name__
    module.own = own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    attack.module("evil")


@pytest.mark.usefixtures("reexports")
@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("nested", [False, True])
def test_a_target_is_a_class_of_our_rooms_or_is_not_built(attack, name, nested):
    """As `resume`, `eval` and `chat` build a stranger's run: nothing has validated it."""
    node = filled(BARE[name], attack)
    if nested:
        node = {"_target_": "ftcli.schedulers.constant.Constant", "many": [{"deep": node}]}
    with pytest.raises(UserError):
        build(node, "scheduler")
    assert not attack.won


@pytest.mark.usefixtures("reexports")
@pytest.mark.parametrize("name", BARE)
def test_the_command_says_so_before_anything_is_imported(attack, ftcli, name):
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(OmegaConf.create({"scheduler": filled(BARE[name], attack)}))
    (attack.folder / "job.yaml").write_text(JOB + text)
    status, seen = ftcli("train", "job.yaml")
    assert status == 2 and "scheduler._target_=" in seen and "→" in seen
    assert not attack.won and "evil" not in sys.modules


@pytest.mark.parametrize(
    ("path", "packages"),
    [
        ("ftcli.data.media.sources.partial", COMPONENTS),  # functools.partial, a class
        ("ftcli.data.media.sources.Path", COMPONENTS),
        ("ftcli.methods.peft.fetch_subclass", COMPONENTS),
        ("ftcli.config.classpath.fetch_class", COMPONENTS),
        ("torch.optim.adamw.Tensor", LIBRARIES),
        ("transformers.utils.hub.Path", LIBRARIES),
    ],
)
def test_names_that_pass_through_us_count_by_where_they_stand(path, packages):
    with pytest.raises(ClassNotAllowed):
        fetch_class(path, packages)


def test_modules_that_a_library_imports_are_not_walked_through():
    with pytest.raises(ModuleNotFoundError):  # a module is imported by its name alone
        fetch_class("peft.import_utils.importlib.import_module", LIBRARIES)


@pytest.mark.parametrize(
    "words", ["_args_: [x]", "_partial_: true", "_recursive_: false, _args_: []"]
)
def test_words_of_hydra_for_making_objects_mean_nothing(ftcli, attack, words):
    made = f"{{_target_: ftcli.schedulers.constant.Constant, {words}}}"
    (attack.folder / "job.yaml").write_text(f"{JOB}scheduler: {made}\n")
    status, seen = ftcli("train", "job.yaml")
    assert status == 2 and "is not a key of" in seen
    with pytest.raises(UserError):
        build({"_target_": "ftcli.schedulers.constant.Constant", "_args_": ["x"]}, "scheduler")


@pytest.mark.parametrize("path", ["evil.Evil", "transformers.evil.Evil", "torch.optim.evil.Evil"])
@pytest.mark.parametrize("part", ["method", "optimizer"])
def test_a_class_path_is_a_configuration_or_an_optimizer(attack, monkeypatch, part, path):
    """Also where the file lies in a package that may be named."""
    import torch

    from ftcli.methods.peft import Peft
    from ftcli.optimizers.library import LibraryOptimizer

    module = types.ModuleType(path.rpartition(".")[0])
    attack.module("evil")
    exec(f"class Evil:\n    def __init__(self, *a, **k):\n        {attack.code}", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(UserError):
        if part == "method":
            Peft(config_class=path).config()
        else:
            weight = torch.nn.Parameter(torch.zeros(2, 2))
            LibraryOptimizer(optimizer_class=path).build([("w", weight)], "cpu")
    assert not attack.won


YAML = {
    "apply": "x: !!python/object/apply:os.system ['{shell}']",
    "new": "x: !!python/object/new:os.system ['{shell}']",
    "module": "x: !!python/module:evil",
    "name": "x: !!python/name:evil.Evil",
    "resolver": "seed: ${{system:'{shell}'}}",
    "eval": "seed: ${{eval:'{code}'}}",
    "callbacks": "hydra: {{callbacks: {{x: {{_target_: os.system, command: '{shell}'}}}}}}",
    "searchpath": "hydra: {{searchpath: ['pkg://evil']}}",
    "sweeper": "hydra: {{sweeper: {{_target_: os.system, command: '{shell}'}}}}",
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_and_hydra_run_nothing(attack, ftcli, name):
    attack.module("evil")
    code = attack.code.strip().replace("'", "''")
    text = YAML[name].format(shell=attack.shell, code=code)
    (attack.folder / "job.yaml").write_text(f"{JOB}{text}\n")
    ftcli("show", "job.yaml")
    (attack.folder / "run").mkdir()
    (attack.folder / "run" / "config.yaml").write_text(f"{text}\n")
    for read in (compose, load):
        try:
            read("run")
        except UserError:
            continue
    assert not attack.won and "evil" not in sys.modules


def test_shell_lines_of_a_launcher_come_from_the_user_and_not_from_a_job(attack, ftcli):
    (attack.folder / "job.yaml").write_text(
        f"defaults: [qlora_mini, {{launcher: submitit}}, _self_]\n"
        f"launcher: {{cluster: local, setup: ['{attack.shell}']}}\n"
    )
    status, seen = ftcli("sweep", "job.yaml", "seed=1,2")
    assert status == 2 and "launcher.setup" in seen and "job.yaml:2" in seen
    assert not (attack.folder / "sweeps").exists()


def test_a_line_break_in_a_slurm_option_is_no_shell_line(attack, ftcli):
    status, seen = ftcli(
        "sweep", "qlora_mini", "seed=1,2", "launcher=submitit",
        f"launcher.partition='a\n{attack.shell}'",
    )  # fmt: skip
    assert status == 2 and "launcher.partition" in seen


NAMES = ("../../out", "/tmp/out", "..", "", "a\\\\b", "nul\\0", "line\\nbreak", "x" * 300)


@pytest.mark.parametrize(
    ("key", "name"),
    [("run.name", name) for name in NAMES]
    + [(key, name) for key in ("eval.loss.name", "eval") for name in NAMES[:2]],
)
def test_a_name_is_no_path(attack, ftcli, key, name):
    node = {
        "run.name": f'run: {{name: "{name}"}}',
        "eval.loss.name": f'eval: {{generation: {{name: "{name}"}}}}',
        "eval": f'eval: {{"{name}": {{_target_: ftcli.evaluation.loss.Loss}}}}',
    }[key]
    (attack.folder / "job.yaml").write_text(f"{JOB}{node}\n")
    verb = ("sweep", "job.yaml", "seed=1,2") if name == NAMES[0] else ("train", "job.yaml")
    status, seen = ftcli(*verb)
    assert status == 2 and "not a valid file name" in seen
    (attack.folder / "run").mkdir()
    (attack.folder / "run" / "config.yaml").write_text(f"{node}\n")
    with pytest.raises(UserError, match="not a valid file name"):
        load("run")
    assert sorted(p.name for p in attack.folder.parent.iterdir()) == ["user", "work"]
    assert sorted(p.name for p in attack.folder.iterdir()) == ["job.yaml", "run"]


def test_a_secret_of_the_environment_cannot_be_sent_elsewhere(attack, ftcli, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_thisisasecretoftheuser")
    (attack.folder / "job.yaml").write_text(f"{JOB}model: {{path: '${{oc.env:HF_TOKEN}}/x'}}\n")
    status, seen = ftcli("show", "job.yaml")
    assert status == 2 and "thisisasecret" not in seen and "HF_TOKEN has a name of a secret" in seen
    monkeypatch.setenv("MY_MODEL", "asset:llama_mini")
    (attack.folder / "job.yaml").write_text(f"{JOB}model: {{path: '${{oc.env:MY_MODEL}}'}}\n")
    assert compose("job.yaml").get("model.path") == "asset:llama_mini"


def test_trust_is_given_by_the_user_alone_and_stands_in_the_record(attack, monkeypatch):
    from ftcli.run.record import _format_command, environment

    attack.module("evil")
    monkeypatch.setenv("FTCLI_TRUST", "")
    (attack.folder / "job.yaml").write_text(
        f"{JOB}trust: [evil]\nscheduler: {{_target_: evil.Evil}}\n"
    )
    composed = compose("job.yaml")
    with pytest.raises(UserError):
        validate_and_convert(composed)
    assert not attack.won and environment()["trusted"] == []
    (attack.folder / "job.yaml").write_text(f"{JOB}scheduler: {{_target_: evil.Evil}}\n")
    composed = compose("job.yaml", ["~scheduler.warmup_ratio"])
    validate_and_convert(composed, trust=["evil"])
    assert environment()["trusted"] == ["evil"] and "# FTCLI_TRUST=evil" in _format_command()
    build(composed.config["scheduler"], "scheduler", composed)
    assert attack.won


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 looks there; docs/security.md says so"
)
def test_what_the_command_starts_finds_no_modules_in_the_working_folder(attack):
    (attack.folder / "typer.py").write_text(attack.code)
    code = (
        "import os, subprocess, sys; sys.path.pop(0)\n"
        "from ftcli.cli import app\n"
        "app.run = lambda words: subprocess.call([sys.executable, '-m', 'ftcli.cli', '--version'])\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ftcli ") and not attack.won
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    bare = [sys.executable, "-m", "ftcli.cli", "--version"]
    subprocess.run(bare, env=environment, capture_output=True)
    assert attack.won, "without the guard the attack works, or it is none"
