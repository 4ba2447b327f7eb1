"""Validation checks every node against its signature, reports all problems, and converts values."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ftcli.config import compose, paths, validate_and_convert
from ftcli.config.building import make_package_error
from ftcli.config.yaml_locations import read_option
from ftcli.core.errors import Problems, UserError

FULL = read_option(paths.configs_dir() / "method" / "full.yaml")


def checked(*overrides: str, job: str = "qlora_mini"):
    composed = compose(job, list(overrides))
    validate_and_convert(composed)
    return composed


def complaints(*overrides: str, job: str = "qlora_mini") -> list[UserError]:
    with pytest.raises(UserError) as caught:
        checked(*overrides, job=job)
    error = caught.value
    return error.problems if isinstance(error, Problems) else [error]


def test_the_main_job_is_valid(write):
    assert checked().config["model"]["quantization"] == "nf4"


def test_a_part_in_brackets_of_a_literal_stands_for_what_is_filled_in():
    """PEFT writes the names `pissa_niter_[number of iters]`."""
    plain = ("method=lora", "model.quantization=none")
    filled = checked(*plain, "method.init_lora_weights=pissa_niter_16")
    assert filled.config["method"]["init_lora_weights"] == "pissa_niter_16"
    (problem,) = complaints(*plain, "method.init_lora_weights=pissa_niter_")
    assert "pissa_niter_[number of iters]" in problem.what


OPTIONS = [
    (group, option)
    for group in paths.list_groups()
    if group not in ("run",)
    for option in paths.list_options(group, paths.list_packaged_folders())
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_packaged_option_fits_the_main_job(write, group, option):
    method = [] if group == "method" else ["method=lora"]
    stored = [] if group == "model" else ["model.quantization=none"]  # not every kind has the key
    composed = compose("qlora_mini", [f"{group}={option}", *method, *stored])
    required = read_option(paths.list_options(group)[option]).get("requires") or {}
    try:
        validate_and_convert(composed)
    except UserError as error:
        problems = error.problems if isinstance(error, Problems) else [error]
        for (
            problem
        ) in problems:  # keys that an option leaves open, and combinations that it excludes
            expected = ("is not given", "data.packing", *required)
            assert any(text in problem.what for text in expected), str(problem)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr='1e-4'", "optimizer.lr", 1e-4),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("trainer.epochs=2", "trainer.epochs", 2.0),
        ("trainer.batch_size='8'", "trainer.batch_size", 8),
        ("trainer.batch_size=8.0", "trainer.batch_size", 8),
        ("trainer.compile='true'", "trainer.compile", True),
        ("data.validation='0.1'", "data.validation", 0.1),
        ("data.validation=held.jsonl", "data.validation", "held.jsonl"),
        ("model.revision=1234567", "model.revision", "1234567"),
        ("method.target_modules=[q_proj,v_proj]", "method.target_modules", ["q_proj", "v_proj"]),
        ("optimizer.betas=[0,0.9]", "optimizer.betas", [0.0, 0.9]),
    ],
)
def test_values_are_converted_to_the_types_of_their_keys(write, override, key, value):
    converted = checked(override).get(key)
    assert converted == value and type(converted) is type(value)


def test_null_means_none_where_that_is_a_value_of_the_key(write):
    assert checked("method=lora", "model.quantization=null").get("model.quantization") == "none"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lr=1e-4x", "optimizer.lr='1e-4x' at command line: expected a number."),
        ("trainer.batch_size=1.5", "trainer.batch_size=1.5 at command line: expected a whole number."),
        ("trainer.batch_size=true", "expected a whole number."),
        ("trainer.compile=maybe", "expected true or false."),
        ("data.train_on=some", "expected one of assistant, all."),
        ("model.quantization=nf5", "expected one of none, nf4, fp4, int8"),
        ("eval.generation.metrics=bleu", "expected a list, each text (write [bleu])."),
        ("optimizer.betas=[0.9]", "expected 2 values, each a number."),
        ("data.split=null", "expected text."),
        ("seed=abc", "seed='abc' at command line: expected a whole number."),
        ("run.dir=[1]", "expected text."),
    ],
)  # fmt: skip
def test_an_error_of_type_names_the_expected_type(write, override, says):
    (problem,) = complaints(override)
    assert says in problem.what and problem.where is None
    assert problem.fix == f"see: ftcli schema {override.partition('=')[0]}"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.lora_rnk=8", "method.lora_rnk is not a key of method=qlora. Did you mean method.r?"),
        ("method.lora_alhpa=8", "Did you mean method.lora_alpha?"),
        ("optimizer.learning_rate=1", "Did you mean optimizer.lr?"),
        ("optimizer.beta=[1,2]", "Did you mean optimizer.betas?"),
        ("optimizer.batch_size=1", "Did you mean trainer.batch_size?"),
        ("trainer.learning_rate=1", "Did you mean optimizer.lr?"),
        ("lr=1e-4", "lr is not a key of a job. Did you mean optimizer.lr?"),
        ("modle.path=x", "modle is not a key of a job. Did you mean model?"),
        ("run.nmae=x", "Did you mean run.name?"),
        ("eval.loss.limt=1", "eval.loss.limt is not a key of eval.loss (Loss). Did you mean eval.loss.limit?"),
        ("eval.los.limit=1", "has no 'los' (it has loss, generation)."),
        ("method.eva_config.rhoo=2", "Did you mean method.eva_config.rho?"),
        ("method.config_class=peft.LoraConfgi", "Did you mean peft.LoraConfig?"),
        ("optimizer.optimizer_class=os.system", "only classes of peft, torch.optim"),
        ("model._target_=ftcli.models.causal_lm.CausalML", "there is no such class. Did you mean"),
        ("model._target_=os.system", "only classes of ftcli may be named here."),
    ],
)  # fmt: skip
def test_an_unknown_name_is_reported_with_the_nearest(write, override, says):
    (problem,) = complaints(override)
    assert says in problem.what and problem.where == "command line"


def test_all_problems_are_reported_together_each_with_its_origin(write):
    write(
        "job.yaml",
        "defaults: [qlora_mini, _self_]\nmethod:\n  lora_rnk: 8\noptimizer: {lr: fast}\n",
    )
    problems = complaints("trainer.epoch=1", "data.path=???", job="job.yaml")
    assert {p.where for p in problems} == {"job.yaml:3", "job.yaml:4", "command line"}
    assert len(problems) == 4


def test_a_job_without_a_group_gets_an_error_that_names_it(write):
    write("job.yaml", "defaults: [{model: llama_mini}]\noptimizer: {lr: 0.1}\n")
    messages = {p.what for p in complaints(job="job.yaml")}
    assert "no trainer is chosen." in messages
    assert "optimizer has no _target_." in messages


def test_a_value_left_open_is_an_error(write):
    write("job.yaml", "defaults: [qlora_mini, {override model: causal_lm}, _self_]\n")
    (problem,) = complaints(job="job.yaml")
    assert problem.what.startswith("model.path is not given")
    assert problem.where == "configs/model/causal_lm.yaml:3"


def test_keys_of_a_replaced_option_are_dropped_with_a_warning(write, caplog):
    composed = checked("method=full", "model.quantization=none")
    assert composed.config["method"] == FULL
    assert "method.r" not in composed.origins
    assert "method.r is left out, method=full has no such key" in caplog.text


def test_keys_of_the_base_job_are_dropped_with_its_option_but_not_those_of_the_job(write):
    base = "defaults: [qlora_mini, {override method: full}, _self_]\n"
    write("job.yaml", base + "model: {quantization: none}\n")
    composed = checked(job="job.yaml")
    assert composed.config["method"] == FULL
    write("own.yaml", base + "model: {quantization: none}\nmethod:\n  r: 4\n")
    (problem,) = complaints(job="own.yaml")
    assert problem.where == "own.yaml:4" and "method=full" in problem.what


def test_a_key_typed_for_the_new_option_is_not_dropped(write):
    (problem,) = complaints("method=full", "method.r=8", "model.quantization=none")
    assert problem.what.startswith("method.r is not a key of method=full")


def test_a_trusted_module_of_the_working_folder_may_be_named(write, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write("my_steps.py", "class Flat:\n    def __init__(self, level: float = 1.0): ...\n")
    override = ["scheduler._target_=my_steps.Flat", "scheduler.level=2", "~scheduler.warmup_ratio"]
    monkeypatch.setenv("FTCLI_TRUST", "")
    composed = compose("qlora_mini", override)
    with pytest.raises(UserError, match="only classes of ftcli") as caught:
        validate_and_convert(composed)
    assert "--trust my_steps" in str(caught.value.fix)
    validate_and_convert(composed, trust=["my_steps"])
    assert composed.get("scheduler.level") == 2.0


@pytest.fixture
def without_schedulefree(monkeypatch):
    """As if the package were not installed."""
    from ftcli.config import class_lookup, signature

    find_spec = class_lookup.find_spec
    monkeypatch.setattr(
        class_lookup, "find_spec", lambda n: None if n == "schedulefree" else find_spec(n)
    )
    signature.read_signature.cache_clear()
    yield
    signature.read_signature.cache_clear()


def test_the_error_for_a_missing_package_names_its_extra_the_key_and_its_origin(
    write, without_schedulefree
):
    (problem,) = complaints("optimizer.optimizer_class=schedulefree.AdamWScheduleFree")
    assert problem.what == (
        "optimizer.optimizer_class=schedulefree.AdamWScheduleFree needs the package "
        "'schedulefree', which is not installed."
    )
    assert problem.fix == "pip install 'ftcli[schedulefree]'" and problem.where == "command line"


def test_the_extra_of_a_package_is_read_from_the_distributions_own_metadata():
    assert make_package_error("mlflow", "x").fix == "pip install 'ftcli[mlflow]'"
    assert make_package_error("some_thing", "x").fix == "pip install some-thing"


def test_nothing_heavy_is_imported(write):
    code = (
        "import sys; from ftcli.config import compose, validate_and_convert; validate_and_convert(compose('qlora_mini')); "
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.sources=[{path: a, wieght: 2}]", "Did you mean data.sources.0.weight?"),
        ("data.sources=[{path: a}, {weight: 2}]", "data.sources.1.path is not given"),
        ("data.sources=[{path: a, weight: big}]", "expected a number"),
        ("data.sources=[a.jsonl]", "expected a list, each a mapping"),
        ("data.eval_sets={code: {pth: a}}", "Did you mean data.eval_sets.code.path?"),
    ],
)
def test_keys_of_sources_and_sets_are_checked_one_by_one(override, says):
    problems = complaints(override, "data=mixture")
    assert any(says in f"{problem.what} {problem.fix}" for problem in problems), problems
