"""Search with Optuna; the study is stored in the sweep's folder, so that finished trials survive a crash."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.trial import read_finished_result
from ftcli.sweeps import composition
from ftcli.sweeps.plan import Plan
from ftcli.sweeps.search import Importance, Search
from ftcli.sweeps.space import Axis, Interval, Point, Space, parse_value
from ftcli.sweeps.trial import FAILED, FINISHED, PRUNED, WAITING, Trial, folder_name

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

FILE = "study.db"
FOLDER, ERROR, SAME = "folder", "error", "same_as"  # user attributes of a trial of the study


class Study(Search):
    """Tree-structured Parzen estimator over the axes, which draws values for one trial at a time.

    A trial that was running when the process ended is resumed in its folder. Values that were tried
    before are not trained again: the study gets the score of the earlier trial.
    """

    def __init__(self, plan: Plan, space: Space, folder: Path) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plan, self.space, self.folder = plan, space, folder
        self.study = optuna.create_study(
            storage=f"sqlite:///{(folder / FILE).resolve()}",
            study_name="sweep",
            direction="minimize" if plan.lower else "maximize",
            load_if_exists=True,
            pruner=_build_pruner(plan),
        )
        kept = self.study.get_trials()
        # another seed at each start, since the same one would draw the first trials again
        self.study.sampler = optuna.samplers.TPESampler(
            seed=plan.seed + len(kept), n_startup_trials=count_startup_trials(plan)
        )
        self.planned = max(plan.trials or 0, len(kept))
        self.width = len(str(self.planned - 1))
        self._live = {t.number: optuna.trial.Trial(self.study, t._trial_id) for t in kept}
        self._reported = {t.number: set(t.intermediate_values) for t in kept}
        self.trials = []
        for frozen in kept:
            self.trials.append(self._restore_trial(frozen))
        self._interrupted = [trial for trial in self.trials if trial.status == WAITING]

    def next_trial(self) -> Trial | None:
        """Return the interrupted trials first, then new ones up to the planned number."""
        if self._interrupted:
            trial = self._interrupted.pop(0)
        elif len(self.trials) < self.planned:
            trial = self._ask_trial()
        else:
            return None
        earlier = next(
            (t for t in self.trials if t.status == FINISHED and t.point == trial.point), None
        )
        if earlier is not None:
            trial.status, trial.result, trial.folder = FINISHED, earlier.result, earlier.folder
            self._live[trial.number].set_user_attr(SAME, earlier.number)
            self.record_end(trial)
            return trial
        try:
            composition.write_trial(
                composition.compose_trial(self.plan.job, trial.overrides), trial.folder
            )
        except UserError as error:
            trial.status, trial.error = FAILED, " ".join(str(error).split())
            self.record_end(trial)
        return trial

    def should_prune(self, trial: Trial) -> bool:
        """Report new scores to the study; returns whether its pruner would stop the trial."""
        reported, new = self._reported.setdefault(trial.number, set()), False
        for step, score in trial.scores(self.plan.metric).items():
            if step not in reported:
                self._live[trial.number].report(score, step)
                reported.add(step)
                new = True
        return new and self.plan.pruner != "none" and self._live[trial.number].should_prune()

    def record_end(self, trial: Trial) -> None:
        """Report the outcome to the study; an interrupted trial stays open there."""
        from optuna.trial import TrialState

        score = trial.score(self.plan.metric)
        if trial.status == FINISHED and score is not None:
            self.study.tell(trial.number, score)
        elif trial.status == PRUNED:
            self.should_prune(trial)
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif trial.status in (FAILED, FINISHED):
            self._live[trial.number].set_user_attr(ERROR, trial.error)
            self.study.tell(trial.number, state=TrialState.FAIL)

    def importance(self) -> Importance:
        """Return functional ANOVA of a random forest, or PED-ANOVA where scikit-learn is not installed."""
        from optuna.importance import (
            FanovaImportanceEvaluator,
            PedAnovaImportanceEvaluator,
            get_param_importances,
        )

        known: list[tuple[str, Any]] = [
            ("fANOVA", lambda: FanovaImportanceEvaluator(seed=self.plan.seed)),
            ("PED-ANOVA", PedAnovaImportanceEvaluator),
        ]
        for name, make in known:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    shares = get_param_importances(self.study, evaluator=make())
                return Importance(dict(shares), name)
            except ImportError:
                continue
            except (ValueError, RuntimeError):  # too few trials, or all of one score
                break
        return Importance({}, "")

    def _ask_trial(self) -> Trial:
        new = self.study.ask({axis.key: build_distribution(axis) for axis in self.space.axes})
        point = {axis.key: format_value(new.params[axis.key]) for axis in self.space.axes}
        name = folder_name(new.number, self.width, point)
        new.set_user_attr(FOLDER, name)
        self._live[new.number] = new
        trial = Trial(new.number, point, self.space.overrides(point), self.folder / name)
        self.trials.append(trial)
        return trial

    def _restore_trial(self, frozen: FrozenTrial) -> Trial:
        """Return a trial of an earlier process; an interrupted one gets the status `waiting`."""
        point: Point = {a.key: format_value(frozen.params.get(a.key, "")) for a in self.space.axes}
        name = frozen.user_attrs.get(FOLDER) or folder_name(frozen.number, self.width, point)
        trial = Trial(frozen.number, point, self.space.overrides(point), self.folder / name)
        state = frozen.state.name
        if state == "RUNNING" and len(frozen.params) < len(self.space.axes):
            trial.status, trial.error = FAILED, "killed before its values were drawn"
            self.record_end(trial)
        elif state != "RUNNING":
            trial.status = {"COMPLETE": FINISHED, "PRUNED": PRUNED}.get(state, FAILED)
            trial.error = frozen.user_attrs.get(ERROR, "")
            if SAME in frozen.user_attrs:
                trial.folder = self.trials[frozen.user_attrs[SAME]].folder
            trial.result = RunDir(trial.folder).result()
        elif (result := read_finished_result(trial.folder)) is not None:
            trial.status, trial.result = FINISHED, result  # ended before the study was told
            self.record_end(trial)
        return trial


def require_optuna() -> None:
    """Raise a UserError where optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        from ftcli.core.errors import missing_package

        raise missing_package("optuna", "sweep", "--optuna") from error


def count_startup_trials(plan: Plan) -> int:
    """Return the number of trials drawn at random before the estimator is used: a third, 4 to 10."""
    return max(4, min(10, (plan.trials or 0) // 3))


def build_distribution(axis: Axis) -> BaseDistribution:
    """Return the distribution of an axis for Optuna; values without an order are categories."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(axis, Interval):
        if axis.whole:
            return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    numbers = [parse_value(t) for t in axis.texts] if axis.step is not None else []
    if numbers and all(isinstance(n, int) for n in numbers):
        return IntDistribution(min(numbers), max(numbers), step=int(axis.step or 1))
    if numbers:
        return FloatDistribution(min(numbers), max(numbers), step=axis.step)
    return CategoricalDistribution(axis.texts)


def format_value(drawn: Any) -> str:
    """Return a drawn value as the text of an override, with all digits of a number."""
    return drawn if isinstance(drawn, str) else repr(drawn)


def _build_pruner(plan: Plan) -> optuna.pruners.BasePruner:
    from optuna import pruners

    if plan.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=count_startup_trials(plan) - 1)
    if plan.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=max(1, plan.every), max_resource=plan.steps)
    return pruners.NopPruner()
