"""Settings of callbacks, evaluators, loggers and penalties that the job has not chosen get the words that do."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError


def refuse(*overrides: str, job: str = "qlora_mini") -> UserError:
    """The one problem of a job."""
    with pytest.raises(UserError) as caught:
        validate_and_convert(compose(job, list(overrides)))
    assert not hasattr(caught.value, "problems"), str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("typed", "what", "fix"),
    [
        (["callback.early_stopping.patience=3"], "callback has no 'early_stopping'.",
         "callback=early_stopping callback.early_stopping.patience=3"),
        (["callback=ema", "callback.early_stopping.patience=3"], "(it has ema)",
         "callback=[ema,early_stopping] callback.early_stopping.patience=3"),
        (["callback=[ema,neftune]", "callback.lora_plus.ratio=4"], "(it has ema, neftune)",
         "callback=[ema,neftune,lora_plus] callback.lora_plus.ratio=4"),
        (["callback.early_stoping.patience=3"], "Did you mean callback.early_stopping?",
         "callback=early_stopping callback.early_stopping.patience=3"),
        (["callback.patience=3"], "Did you mean callback.early_stopping.patience?",
         "callback=early_stopping callback.early_stopping.patience=3"),
        (["callback=ema", "callback.deacy=0.9"], "Did you mean callback.ema.decay?",
         "callback.ema.decay=0.9"),
        (["eval.preference.limit=8"], "eval=e2e has no 'preference' (it has loss, generation).",
         "eval=[e2e,preference] eval.preference.limit=8"),
        (["eval=none", "eval.loss.limit=8"], "eval=none has no 'loss'.", "eval=loss eval.loss.limit=8"),
        (["eval.los.limit=8"], "Did you mean eval.loss?", "eval.loss.limit=8"),
        (["eval.limit=8"], "Did you mean eval.loss.limit or eval.generation.limit?",
         "eval.loss.limit=8, or eval.generation.limit=8"),
        (["penalty=ba_lora", "penalty.nuclear.weight=2"], "(it has consistency, diversity, spectrum)",
         "penalty=[ba_lora,nuclear] penalty.nuclear.weight=2"),
        (["logger.wandb.project=x"], "logger=default has no 'wandb'.",
         "logger=wandb logger.wandb.project=x"),
        (["logger.project=x"], "Did you mean logger.trackio.project or logger.wandb.project?",
         "logger=NAME logger.NAME.project=x, where NAME is one of trackio, wandb"),
        (["callback.zzz.x=3"], "callback has no 'zzz'.",
         "pick one: callback=NAME with a name of `ftcli ls callbacks`"),
    ],
)  # fmt: skip
def test_the_fix_is_what_to_type(write, typed, what, fix):
    problem = refuse(*typed)
    assert what in problem.what and problem.fix == fix and problem.where == "command line"


def test_what_the_fix_says_is_accepted(write):
    fix = refuse("callback=ema", "callback.neftune.alpha=3").fix
    composed = compose("qlora_mini", str(fix).split())
    validate_and_convert(composed)
    assert composed.get("callback.neftune.alpha") == 3.0 and composed.get("callback.ema._target_")


def test_in_a_file_the_fix_is_an_entry_of_its_defaults(write):
    write("job.yaml", "defaults: [qlora_mini, _self_]\ncallback:\n  ema: {decay: 0.9}\n")
    problem = refuse(job="job.yaml")
    assert problem.where == "job.yaml:3"
    assert (
        problem.fix == "`- callback: ema` in its defaults list, or callback=ema on the command line"
    )
    write("job.yaml", "defaults: [qlora_mini, _self_]\neval:\n  preference: {limit: 9}\n")
    assert str(refuse(job="job.yaml").fix).startswith("`- override eval: [e2e, preference]`")
    write("job.yaml", "defaults: [qlora_mini, _self_]\neval:\n  los: {limit: 9}\n")
    assert refuse(job="job.yaml").fix == "write `loss: {limit: 9}` under `eval:`"
