"""Composition: the origin of each value, and Hydra's grammar behind the path of the job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ftcli.config import compose, configs_dir, load
from ftcli.config.job import iter_leaves
from ftcli.config.yaml_locations import read_option
from ftcli.core.errors import Problems, UserError

FULL = read_option(configs_dir() / "method" / "full.yaml")

LOSS = "_target_: ftcli.evaluation.loss.Loss\n"


def test_a_packaged_job_is_found_by_name_and_by_its_path_in_the_repository(write):
    by_name, by_path = compose("qlora_mini"), compose("configs/qlora_mini.yaml")
    assert by_name.config == by_path.config
    assert by_name.job_file == configs_dir() / "qlora_mini.yaml"
    assert by_name.choices["model"] == "llama_mini"
    assert "hydra" not in by_name.config and "defaults" not in by_name.config


def test_every_leaf_of_the_main_job_names_the_line_that_sets_it(write):
    job = compose("qlora_mini", ["optimizer.lr=1e-4"])
    assert set(job.origins) == {key for key, _ in iter_leaves(job.config)}
    in_files = 0
    for key, origin in job.origins.items():
        if origin.file and origin.line:
            text = origin.file.read_text().splitlines()[origin.line - 1]
            assert key.rpartition(".")[2] in text, (key, str(origin))
            in_files += 1
    assert in_files > 20
    assert job.where("optimizer.lr") == "command line"
    assert job.config["optimizer"]["lr"] == 1e-4


def test_the_last_file_of_the_defaults_list_is_the_origin(write):
    write("a/eval/one.yaml", f"loss:\n  {LOSS}  limit: 1\n  split: test\n")
    job = write("a/job.yaml", "defaults: [{eval: one}, _self_]\neval: {loss: {limit: 2}}\n")
    composed = compose(job)
    assert composed.config["eval"]["loss"] == {
        "_target_": "ftcli.evaluation.loss.Loss", "limit": 2, "split": "test",
    }  # fmt: skip
    assert composed.where("eval.loss.limit") == "a/job.yaml:2"
    assert composed.where("eval.loss.split") == "a/eval/one.yaml:4"
    assert (
        composed.where("eval.loss.batch_size") == "a/job.yaml:2"
    )  # not set: origin of the mapping


def test_the_jobs_folder_comes_before_the_users_and_that_before_the_packaged(write, tmp_path):
    job = write("mine/job.yaml", "defaults: [{eval: loss}]\n")
    packaged = compose(job)
    assert packaged.where("eval.loss.split") == "configs/eval/loss.yaml:4"
    write("configs/eval/loss.yaml", f"loss: {{split: working}}\n{LOSS}")
    assert compose(job).config["eval"]["loss"]["split"] == "working"
    (tmp_path / "user" / "eval").mkdir()
    (tmp_path / "user" / "eval" / "loss.yaml").write_text("loss: {split: user}\n")
    assert compose(job).config["eval"]["loss"]["split"] == "user"
    write("mine/eval/loss.yaml", "loss: {split: beside}\n")
    assert compose(job).config["eval"]["loss"]["split"] == "beside"


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        (["seed=3"], "seed", 3),
        (["+extra.deep=1"], "extra.deep", 1),
        (["++seed=4"], "seed", 4),
        (["not.there=5"], "not.there", 5),
        (["~seed"], "seed", None),
        (["eval=none"], "eval", {}),
        (["eval.loss.limit=1e3"], "eval.loss.limit", 1000.0),
        (["a=[1,2,x]"], "a", [1, 2, "x"]),
        (["a={b:1,c:{d:2}}"], "a", {"b": 1, "c": {"d": 2}}),
        (["a='b, c=d'"], "a", "b, c=d"),
        (["a=null"], "a", None),
        (["a=${seed}"], "a", 7),
        (["a=x/y.jsonl"], "a", "x/y.jsonl"),
        (["~eval"], "eval", None),
        (["+logger=wandb"], "logger.wandb._target_", "ftcli.loggers.wandb.Wandb"),
    ],
)
def test_hydras_grammar_works_after_the_path(write, overrides, key, expected):
    job = write("job.yaml", "defaults: [{eval: loss}, _self_]\nseed: 7\n")
    composed = compose(job, overrides)
    assert composed.get(key) == expected
    assert composed.overrides == overrides
    if expected not in (None, {}) and "logger" not in key:
        assert composed.where(key) == "command line"


def test_deleting_a_group_removes_the_jobs_own_keys_of_it(write):
    job = write("job.yaml", "defaults: [{eval: loss}, _self_]\neval: {loss: {limit: 2}}\n")
    assert "eval" not in compose(job, ["~eval"]).config


def test_a_group_that_the_defaults_list_lacks_is_overridden_by_the_jobs_own_keys(write):
    job = write("job.yaml", "defaults: [_self_]\nscheduler: {warmup_ratio: 0.5}\n")
    scheduler = compose(job, ["scheduler=cosine"]).config["scheduler"]
    assert scheduler == {"_target_": "ftcli.schedulers.cosine.Cosine", "warmup_ratio": 0.5}


def test_a_resolved_file_composes_to_itself_and_takes_other_options(write):
    first = compose("qlora_mini", ["optimizer.lr=1e-4", "run.name=mine"])
    path = write("runs/x/config.yaml", yaml.safe_dump(first.config, sort_keys=False))
    recomposed = compose(path)
    assert recomposed.config == first.config == load(path).config == compose("runs/x").config
    assert load("runs/x").where("optimizer.lr").startswith("runs/x/config.yaml:")
    other = compose(path, ["method=full", "seed=1"])
    assert other.config["method"] == FULL
    assert other.where("method._target_") == "configs/method/full.yaml:2"
    assert "method" not in compose(path, ["~method"]).config


def test_a_job_may_start_from_another_one(write):
    job = write(
        "mine.yaml",
        "defaults: [qlora_mini, {override scheduler: cosine}, _self_]\noptimizer: {lr: 0.5}\n",
    )
    composed = compose(job)
    assert composed.config["scheduler"]["_target_"] == "ftcli.schedulers.cosine.Cosine"
    assert composed.config["method"]["_target_"] == "ftcli.methods.peft.Peft"
    assert composed.config["optimizer"]["lr"] == 0.5
    assert composed.where("optimizer.lr") == "mine.yaml:2"
    assert composed.where("trainer.epochs").startswith("configs/qlora_mini.yaml:")


def test_the_name_of_a_run_is_that_of_its_job_and_any_file_name_will_do(write):
    job = write("odd name@2=x.yml", "seed: 1\n")
    assert compose(job).config == {"seed": 1, "run": {"name": "odd name@2=x"}}
    assert compose(job, ["run.name=y"]).config["run"]["name"] == "y"


def test_numbers_without_a_point_are_numbers(write):
    job = write("job.yaml", "a: 1e-4\nb: 1.0e-4\nc: '1e-4'\n")
    config = compose(job).config
    assert (config["a"], config["b"], config["c"]) == (1e-4, 1e-4, "1e-4")


def test_one_item_of_a_list_may_be_set(write):
    job = write("job.yaml", "a: {b: [1, 2]}\n")
    composed = compose(job, ["a.b.0=5"])
    assert composed.get("a.b") == [5, 2] and composed.where("a.b") == "command line"


def test_merge_keys_of_yaml_are_followed(write):
    job = write("job.yaml", "base: &b\n  x: 1\n  y: 2\nown:\n  <<: *b\n  y: 3\n")
    composed = compose(job)
    assert composed.config["own"] == {"x": 1, "y": 3}
    assert composed.where("own.x") == "job.yaml:2" and composed.where("own.y") == "job.yaml:6"


def test_composing_changes_neither_hydras_state_nor_the_folder_nor_the_terminal(
    write, tmp_path, capfd
):
    job = write("job.yaml", "defaults: [{eval: loss}]\nseed: 1\n")  # no _self_: Hydra would warn
    before = sorted(Path.cwd().iterdir())
    with initialize_config_dir(str(tmp_path), version_base=None):
        mine = GlobalHydra.instance().hydra
        compose(job)
        assert GlobalHydra.instance().hydra is mine
    assert sorted(Path.cwd().iterdir()) == before
    assert os.getcwd() == str(Path.cwd())
    assert capfd.readouterr() == ("", "")


def test_the_jobs_own_keys_win_where_self_is_missing(write):
    job = write("job.yaml", "defaults: [{eval: loss}]\neval: {loss: {split: test}}\n")
    assert compose(job).config["eval"]["loss"]["split"] == "test"


MISTAKES = {
    "no such file": ("", "nowhere.yaml", [], "nowhere.yaml: no such file or job", None),
    "not yaml": ("a: [1\nb: 2\n", None, [], "not valid YAML", "job.yaml:2"),
    "key twice": ("a: 1\na: 2\n", None, [], "duplicate key", "job.yaml:2"),
    "a list": ("- a\n", None, [], "a mapping", "job.yaml:1"),
    "defaults as a mapping": ("seed: 1\ndefaults: {model: llama_mini}\n", None, [], "must be a list", "job.yaml:2"),
    "option in the defaults": (
        "seed: 1\ndefaults:\n  - model: llama_mini\n  - method: lroa\n",
        None, [], "method=lroa: no such method. Closest: lora", "job.yaml:4",
    ),
    "option typed": ("seed: 1\n", None, ["model=llama3_9b"], "Closest: llama3_8b", "command line"),
    "base job": ("defaults: [qlora_lama]\n", None, [], "Closest: qlora_llama", "job.yaml:1"),
    "grammar": ("seed: 1\n", None, ["a=[1,2"], "cannot be read", "command line"),
    "no key": ("seed: 1\n", None, ["=3"], "names no key", "command line"),
    "another package": (
        "defaults: [{eval: loss}]\n", None, ["eval@x=none"], "Did you mean to override eval?", "command line",
    ),
    "no value": ("seed: 1\n", None, ["seed"], "cannot be read", "command line"),
    "several values": ("seed: 1\n", None, ["seed=1,2"], "several values", "command line"),
    "group with a number": ("seed: 1\n", None, ["model=7"], "wants the name", "command line"),
    "delete what is not there": ("seed: 1\n", None, ["~foo.bar"], "foo.bar", "command line"),
    "add what is there": ("seed: 1\n", None, ["+seed=2"], "already at 'seed'", "command line"),
    "interpolation": ("seed: 1\na:\n  b: ${sed}\n", None, [], "no key 'sed'. Did you mean ${seed}?", "job.yaml:3"),
    "environment": ("a: ${oc.env:FTCLI_NOT_SET}\n", None, [], "FTCLI_NOT_SET", "job.yaml:1"),
    "choose one": ("defaults: [{model: '???'}]\n", None, [], "model is left open", "job.yaml:1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_composition_is_one_message_with_its_place(write, name):
    text, job, overrides, says, where = MISTAKES[name]
    path = job or write("job.yaml", text)
    with pytest.raises(UserError) as caught:
        compose(path, overrides)
    assert not isinstance(caught.value, Problems)
    assert says in caught.value.what
    assert caught.value.where == where
    message = str(caught.value).lower()
    assert not any(noise in message for noise in ("hydra", "omegaconf", "traceback", "_ftcli_job_"))


def test_an_unreadable_group_file_is_named_itself(write):
    write("eval/bad.yaml", "loss:\n  split: 'open\n")
    with pytest.raises(UserError) as caught:
        compose(write("job.yaml", "defaults: [{eval: bad}]\n"))
    assert str(caught.value.where).startswith("eval/bad.yaml:")


def test_a_resolved_file_may_be_broken_too(write):
    with pytest.raises(UserError) as caught:
        load(write("config.yaml", "seed: 1\na: ${sed}\n"))
    assert caught.value.where == "config.yaml:2"


def test_a_job_may_add_to_the_search_path(write, tmp_path):
    (tmp_path / "more it's" / "eval").mkdir(parents=True)
    (tmp_path / "more it's" / "eval" / "far.yaml").write_text("loss: {split: far}\n")
    more = f"file://{tmp_path}/more it's"
    job = write("job.yaml", f'defaults: [{{eval: far}}]\nhydra: {{searchpath: ["{more}"]}}\n')
    composed = compose(job)
    assert composed.config == {"eval": {"loss": {"split": "far"}}, "run": {"name": "job"}}


def test_invalid_overrides_are_reported_together(write):
    with pytest.raises(Problems) as caught:
        compose(write("job.yaml", "seed: 1\n"), ["seed=1,2", "a=[", "seed=3"])
    assert len(caught.value.problems) == 2
