"""`ftcli check` as a user runs it."""

import json
import shlex

import pytest

from tests.cpu_time import compare_cpu_time


def names(ended, status):
    return [c["name"] for c in json.loads(ended.out)["checks"] if c["status"] == status]


def test_the_shipped_job_is_sound(ftcli, work):
    ended = ftcli("check", "qlora_mini", "--json")
    report = json.loads(ended.out)
    assert ended.status == 0 and report["ok"]
    assert names(ended, "ok") == [
        "config", "model", "targets", "data", "template", "train_on", "lengths", "packing", "memory", "disk",
    ]  # fmt: skip
    assert sum(bar["documents"] for bar in report["lengths"]) > 200
    assert list(work.iterdir()) == []


def test_what_a_person_reads(ftcli):
    shown = ftcli("check", "qlora_mini").out
    for words in (
        "✓ config",
        "q_proj 8",
        "columns mr, ref",
        "% of the tokens are learned, every end of turn too",
        "█",
    ):
        assert words in shown


def test_paper_scale_without_network_warns_and_does_not_fail(ftcli, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ended = ftcli("check", "qlora_mini", "model=llama3_8b", "method.r=64", "--gpu", "80",
                  "trainer.batch_size=4", "--json")  # fmt: skip
    assert ended.status == 0
    assert names(ended, "warn") == ["model", "tokens", "packing"]
    targets = next(c for c in json.loads(ended.out)["checks"] if c["name"] == "targets")
    assert "167,772,160 of 8,030,261,248" in targets["text"]


def test_data_of_a_hub_out_of_reach_are_a_warning(ftcli, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    ended = ftcli("check", "qlora_mini", "data=prompt", "data.path=nobody/nothing", "--json")
    assert ended.status == 0 and "data" in names(ended, "warn")


def test_an_optimizer_that_needs_cuda_names_its_stand_in(ftcli):
    ended = ftcli("check", "qlora_mini", "optimizer=paged_adamw8bit", "--json")
    checks = json.loads(ended.out)["checks"]
    texts = [c["text"] for c in checks if c["name"] == "optimizer"]
    assert ended.status == 0 and "AdamW8bit takes the place of bitsandbytes.optim.Paged" in texts[0]


def test_a_disk_that_is_too_small_is_a_failure(ftcli, monkeypatch):
    monkeypatch.setattr("ftcli.planning.check.free_disk", lambda folder: 1000)
    ended = ftcli("check", "qlora_mini", "--json")
    assert ended.status == 2 and names(ended, "fail") == ["disk"]


def test_it_costs_little_more_than_importing_the_libraries(work):
    """About as much as the imports: a second look at the model or the data would show."""
    libraries = "import torch, peft, transformers.models.llama.modeling_llama"
    check = ["-m", "ftcli", "check", "configs/qlora_mini.yaml"]
    assert compare_cpu_time(check, ["-c", libraries], rounds=2) < 2


MISSPELT = (
    ("method.rank_pattern={q_porj:8}", "method.rank_pattern={q_proj:8}"),
    ("method.rank_pattern={q_porj:8,v_proj:4}", "method.rank_pattern={q_proj:8,v_proj:4}"),
    ("method.alpha_pattern={dwon_proj:8}", "method.alpha_pattern={down_proj:8}"),
    ("method.rank_pattern={*q_proj:8}", "method.rank_pattern={q_proj:8}"),
    ("method.target_modules=[q_porj,v_proj]", "method.target_modules=[q_proj,v_proj]"),
)


@pytest.mark.parametrize(("wrong", "right"), MISSPELT)
def test_a_name_that_matches_nothing_is_put_right_in_its_own_value(ftcli, wrong, right):
    """The way out is pasted in the place of the setting, and the check of targets passes."""
    bad = targets(ftcli, wrong)
    assert bad["status"] == "fail"
    first = shlex.split(bad["fix"].split("; ")[0])
    assert first == [right], bad["fix"]
    assert targets(ftcli, *first)["status"] == "ok"


def targets(ftcli, *words: str) -> dict:
    """The finding on target modules."""
    ended = ftcli("check", "--json", "qlora_mini", "data.limit=8", "eval=none", *words)
    return next(check for check in json.loads(ended.out)["checks"] if check["name"] == "targets")


BASED = ("note_dpo", "gazal_r1", "styleid", "petl_ast")


@pytest.mark.parametrize("recipe", BASED)
def test_a_base_that_is_not_trained_yet_is_one_finding(ftcli, work, monkeypatch, recipe):
    """Everything else is checked on what the base is trained from; nothing is trained."""
    monkeypatch.setenv("FTCLI_CACHE", str(work / "cache"))
    ended = ftcli("check", "--json", recipe)
    assert ended.status == 0, ended.out
    checks = json.loads(ended.out)["checks"]
    model = next(check for check in checks if check["name"] == "model")
    assert (
        model["status"] == "warn"
        and "is not trained yet: the first run of this job" in model["text"]
    )
    assert not any(str(work) in check["text"] for check in checks)
    checked = {check["name"] for check in checks if check["status"] == "ok"}
    assert {"config", "targets", "data", "memory"} <= checked
    assert not (work / "cache" / "bases").exists()


DOUBTFUL = (
    (
        "optimizer.lr=2e3",
        "optimizer.lr=2000 is 1e+07 times what optimizer=adamw starts from (0.0002)",
    ),
    ("optimizer.lr=1e-9", "training makes no progress with steps that short"),
    ("scheduler.warmup_ratio=0.9", "most of the run is warmup"),
    ("scheduler.warmup_steps=800", "warmup does not end within the run"),
    ("method.lora_dropout=0.9", "most of the adapter's input is dropped"),
    ("data.max_length=8", "hardly any row is that short"),
    ("optimizer.weight_decay=3", "weights decay to zero"),
)


@pytest.mark.parametrize(("word", "says"), DOUBTFUL)
def test_what_is_hardly_meant_is_a_warning_whose_way_out_takes_it_away(ftcli, word, says):
    from ftcli.config import compose
    from ftcli.config.value_ranges import find_unusual_values

    ended = ftcli("check", "--json", "qlora_mini", "eval=none", "data.limit=8", word)
    checks = json.loads(ended.out)["checks"]
    doubt = next(
        check for check in checks if check["name"] == "config" and check["status"] == "warn"
    )
    assert says in doubt["text"]
    assert (
        list(find_unusual_values(compose("qlora_mini", [word, *shlex.split(doubt["fix"])]))) == []
    )


IMPOSSIBLE = (
    "method.lora_dropout=1", "method.lora_dropout=-0.1", "method.r=0", "method.lora_alpha=0",
    "scheduler.warmup_ratio=3", "scheduler.warmup_ratio=-1", "scheduler.min_ratio=2", "trainer.max_steps=-1",
    "trainer.batch_size=0", "data.max_length=1", "data.limit=0", "optimizer.lr=inf", "optimizer.lr=-1e-4",
    "optimizer.betas=[0.9,1.0]", "trainer.max_skipped=0", "eval.generation.max_new_tokens=0", "seed=-1",
)  # fmt: skip


@pytest.mark.parametrize("word", IMPOSSIBLE)
def test_what_cannot_be_is_refused_by_check_and_train_alike(ftcli, work, word):
    key = word.partition("=")[0]
    for verb in ("check", "train"):
        ended = ftcli(verb, "qlora_mini", word)
        assert ended.status == 2 and key in ended.err and "must be" in ended.err, ended.err
    assert list(work.iterdir()) == []
