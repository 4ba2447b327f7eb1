"""The run ends after `patience` evaluations in a row without a better score."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ftcli.callbacks.early_stopping import EarlyStopping
from ftcli.core.errors import UserError


def at(step: int) -> SimpleNamespace:
    return SimpleNamespace(step=step, run=SimpleNamespace(trainer=SimpleNamespace(eval_every=10)))


def watch(callback: EarlyStopping, values: list[float], name: str = "eval.loss") -> int | None:
    """Index of the evaluation after which the callback asks for the end."""
    for index, value in enumerate(values):
        following = 0 if callback.last_step < 0 else callback.last_step + 10
        callback.on_evaluate(at(following), {name: value})
        if callback.get_stop_reason():
            return index
    return None


@pytest.mark.parametrize(
    ("options", "values", "ends"),
    [
        ({"patience": 2}, [3.0, 2.0, 2.1, 2.0], 3),  # equal is no improvement
        ({"patience": 2}, [3.0, 2.0, 2.1, 1.9, 1.95, 1.8], None),  # a better one counts anew
        ({"patience": 1}, [3.0, float("nan")], 1),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.6, 2.5, 2.4], 2),  # 3 - 2.5 is no more than 0.5
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.6, 2.4, 2.4, 2.4], 4),
        ({"patience": 2, "mode": "max"}, [1.0, 2.0, 3.0, 2.0, 2.0], 4),
    ],
)
def test_what_counts_as_an_improvement(options, values, ends):
    assert watch(EarlyStopping(**options), values) == ends


def test_the_metric_says_which_way_is_better():
    assert watch(EarlyStopping("bleu", 2), [1.0, 2.0, 3.0, 4.0], "eval.bleu") is None
    assert watch(EarlyStopping("eval.bleu", 2), [4.0, 3.0, 2.0], "eval.bleu") == 2
    assert watch(EarlyStopping("slot_error", 2), [4.0, 3.0, 2.0], "eval.slot_error") is None


def test_the_state_goes_on_where_it_was_and_more_patience_lets_the_run_go_on():
    first = EarlyStopping(patience=2)
    assert watch(first, [1.0, 2.0, 2.0]) == 2
    second = EarlyStopping(patience=3)
    second.load_state_dict(first.state_dict())
    assert second.get_stop_reason() is None and (second.best, second.best_step) == (1.0, 0)
    assert watch(second, [2.0]) == 0 and "of step 0 for 3 evaluations" in str(
        second.get_stop_reason()
    )


def test_an_evaluation_off_the_interval_or_at_the_same_step_does_not_count():
    callback = EarlyStopping(patience=2)
    for step, value in ((0, 1.0), (10, 2.0), (10, 2.0), (14, 2.0)):
        callback.on_evaluate(at(step), {"eval.loss": value})
    assert callback.waited == 1


def test_a_score_that_is_not_measured_is_named_with_those_that_are():
    with pytest.raises(UserError, match=r"no eval.bleu at step 50.*: loss, perplexity") as caught:
        EarlyStopping("bleu").on_evaluate(
            at(50), {"step": 50, "eval.loss": 1.0, "eval.perplexity": 2.0}
        )
    assert "periodic=true" in str(caught.value)


def test_a_run_that_is_evaluated_at_its_ends_only_is_refused():
    seldom = SimpleNamespace(loss=SimpleNamespace(periodic=False))
    for every, evaluators in ((None, {"loss": SimpleNamespace(periodic=True)}), (5, vars(seldom))):
        run = SimpleNamespace(
            pipeline=None, trainer=SimpleNamespace(eval_every=every), evaluators=evaluators
        )
        with pytest.raises(UserError, match="evaluated at its ends only"):
            EarlyStopping().setup(run)
