"""The JSON schema for editors accepts every packaged job and rejects what validation rejects."""

from __future__ import annotations

import json

import pytest
import yaml
from omegaconf import OmegaConf

from ftcli.config import compose, configs_dir, paths
from ftcli.config.schema import build_job_schema, describe_keys
from ftcli.core.errors import UserError

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json.dumps(build_job_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", paths.list_jobs(configs_dir()))
def test_packaged_jobs_satisfy_it_as_written_and_as_resolved(validator, name):
    written = OmegaConf.to_container(OmegaConf.load(configs_dir() / f"{name}.yaml"), resolve=False)
    assert list(validator.iter_errors(written)) == []
    assert list(validator.iter_errors(compose(name).config)) == []


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [{method: lroa}]",
        "method: {lora_rnk: 3}",
        "optimizer: {lr: fast}",
        "trainer: {precision: fp8}",
        "modle: {}",
        "seed: x",
        "eval: {loss: {limt: 3}}",
        "run: {nmae: x}",
    ],
)
def test_it_rejects_mistakes(validator, text):
    assert not validator.is_valid(yaml.safe_load(text))


@pytest.mark.parametrize("text", ["optimizer: {lr: '${lr}'}", "model: {path: '???'}", "seed: 3"])
def test_interpolations_and_open_values_are_accepted_for_any_key(validator, text):
    assert list(validator.iter_errors(yaml.safe_load(text))) == []


def test_keys_have_their_help_and_groups_their_options():
    schema = build_job_schema()["properties"]
    batch = schema["trainer"]["properties"]["batch_size"]
    assert batch["default"] == 16 and "rows" in batch["description"]
    entry = schema["defaults"]["items"]["anyOf"][1]["properties"]["method"]
    assert "lora" in entry["anyOf"][0]["enum"]
    targets = schema["optimizer"]["properties"]["_target_"]["enum"]
    assert "ftcli.optimizers.library.LibraryOptimizer" in targets


def test_a_key_a_group_and_an_option_are_described():
    (lr,) = describe_keys("optimizer.lr")
    assert (lr.type, lr.default) == ("a number", "0.0002") and "adamw" in lr.options
    assert {m.key for m in describe_keys("run")} == {"run.name", "run.dir"}
    keys = {m.key for m in describe_keys("method=lora")}
    assert {"method.r", "method.use_dora"} <= keys and "method.vera_dropout" not in keys
    assert describe_keys("model.path")[0].default == "required"
    assert describe_keys("methods") == describe_keys("method")


def test_the_keys_of_named_objects_are_grouped_by_their_names():
    names = [m.key.split(".")[1] for m in describe_keys("callback")]
    assert names == sorted(names) and {"early_stopping", "ema"} <= set(names)
    stopping = describe_keys("callback.early_stopping")
    keys = {"score", "patience", "min_delta", "mode"}
    assert {m.key for m in stopping} == {f"callback.early_stopping.{key}" for key in keys}
    for key in ("eval.generation", "penalty.nuclear", "logger.wandb"):
        assert all(m.key.startswith(f"{key}.") for m in describe_keys(key))
    (limit,) = describe_keys("eval.loss.limit")
    assert (limit.key, limit.options) == ("eval.loss.limit", ["e2e", "gsm8k", "loss"])


def test_a_key_of_an_object_with_a_name_of_its_own_is_that_of_each_object():
    keys = [m.key for m in describe_keys("eval.mine.metrics")]
    assert keys == ["eval.generation.metrics"]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("callback.patience", "Did you mean callback.early_stopping.patience?"),
        ("callback.early_stoping", "Did you mean callback.early_stopping?"),
        ("eval.los.limt", "Did you mean eval.loss.limit?"),
        ("optimizer.learning_rate", "Did you mean optimizer.lr?"),
        ("methd", "Did you mean method?"),
        ("run.nam", "Did you mean run.name?"),
        ("method=nothing", "there is no method=nothing"),
    ],
)
def test_the_error_for_an_unknown_key_names_the_nearest(key, says):
    with pytest.raises(UserError) as caught:
        describe_keys(key)
    assert says in caught.value.what
