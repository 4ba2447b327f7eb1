"""Tasks of lm-eval (the Language Model Evaluation Harness) on the model of a run, or on any model."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError, missing_package
from ftcli.core.run_dir import is_plain_name

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

EXTRA = "lm-eval"
BATCH = 8  # rows at a time


@dataclass(frozen=True)
class HarnessOptions:
    """How lm-eval asks.

    Attributes:
        folder: YAML files of further tasks; they replace tasks of the same name.
        trusted: whether these may name Python functions.
        shots: examples before each question; None: as the task says.
        limit: rows of each task; None: all.
        chat: whether questions are turns of the model's chat template.
    """

    folder: Path | None = None
    trusted: bool = False
    shots: int | None = None
    limit: int | None = None
    chat: bool = False
    batch_size: int = BATCH


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task, and their standard errors where lm-eval has them."""

    task: str
    scores: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def evaluate_tasks(
    path: str,
    tasks: Sequence[str],
    manager: TaskManager,
    options: HarnessOptions,
    checkpoint: str = "last",
) -> list[TaskScores]:
    """Return the scores of lm-eval's tasks; those of a run are also written to `eval/<task>.json`, task by task.

    The model is taken as it was trained, adapters and quantised weights included.

    Args:
        path: a run directory, or a model: a folder, a GGUF file, `asset:NAME`, or a hub id.
        manager: from `find_tasks`.

    Raises:
        UserError: a task has no data here, or the model is no causal language model.
    """
    run, model = _open_model(path, checkpoint, options)
    found = []
    with run.evaluation_weights() if run else nullcontext():
        for task in tasks:
            with _sandboxed_templates():
                results = _evaluate(model, task, manager, options)
            for scores in _read_results(results, options):
                found.append(scores)
                if run:
                    _save(run, checkpoint, scores)
    return found


def find_tasks(
    tasks: Sequence[str], options: HarnessOptions, evaluators: Sequence[str] = ()
) -> TaskManager:
    """Return lm-eval's index of tasks: that of the given folder where it has all of them, else also its own.

    Args:
        evaluators: names of the run's own evaluators, of which a name may be a misspelling.

    Raises:
        UserError: lm-eval is not installed, a task is in neither, or the folder's tasks hold code.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every default that it takes
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        known = f" (evaluators of the run: {', '.join(evaluators)})" if evaluators else ""
        raise missing_package("lm-eval", EXTRA, f"--tasks {','.join(tasks)}{known}") from error
    if options.folder is not None:
        import lm_eval.api.metrics  # noqa: F401  (fills the registry)
        from lm_eval.api.registry import metric_registry

        from ftcli.jobs.harness_folder import check_task_folder

        check_task_folder(options.folder, options.trusted, metric_registry)
        own = TaskManager(include_path=str(options.folder), include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    folder = str(options.folder) if options.folder else None
    manager = TaskManager(include_path=folder)
    unknown = sorted(set(tasks) - set(manager.all_tasks))
    if unknown:
        from ftcli.config.paths import find_nearest

        near = find_nearest(unknown[0], [*evaluators, *manager.all_tasks])
        hint = f" Closest: {', '.join(near)}." if near else ""
        raise UserError(
            f"{', '.join(unknown)}: neither an evaluator of the run nor a task of lm-eval.{hint}",
            where="--tasks",
            fix="lm-eval ls tasks",
        )
    return manager


def _open_model(path: str, checkpoint: str, options: HarnessOptions) -> tuple[Any, LM]:
    """Return the run, None for a bare model, and the model for lm-eval."""
    from lm_eval.models.huggingface import HFLM

    if (Path(path) / "config.yaml").is_file():
        from ftcli.run.build import open_run

        run = open_run(path, checkpoint=checkpoint)
        if not hasattr(run.model, "generate") or run.tokenizer is None:
            raise UserError(f"{path} is no causal language model.", where="--tasks")
        tokenizer = copy.deepcopy(run.tokenizer)  # lm-eval may give it a padding token
        return run, HFLM(run.model, tokenizer=tokenizer, batch_size=options.batch_size)
    from ftcli.models.causal_lm import CausalLMSource

    source = CausalLMSource(path, dtype="auto")  # safetensors only, no code of the model
    tokenizer = source.load_tokenizer()
    return None, HFLM(source.load(), tokenizer=tokenizer, batch_size=options.batch_size)


def _evaluate(
    model: LM, task: str, manager: TaskManager, options: HarnessOptions
) -> dict[str, Any]:
    import lm_eval

    try:
        manager.load([task])
    except Exception as error:  # of data sets, of the hub, of the task's own file
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"the task {task} cannot be loaded: {type(error).__name__}: {text}",
            where="--tasks",
            fix="without network, --task-path FOLDER with a copy of its YAML that names local data",
        ) from error
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=manager,
        num_fewshot=options.shots,
        limit=options.limit,
        apply_chat_template=options.chat,
        log_samples=False,
        bootstrap_iters=1000,
    )
    return results or {}


@contextmanager
def _sandboxed_templates() -> Iterator[None]:
    """Render the templates of tasks in Jinja's sandbox: they come with data, and must not run code."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    plain = utils.env
    utils.env = SandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=True
    )
    utils.env.filters |= plain.filters
    try:
        yield
    finally:
        utils.env = plain


def _read_results(results: dict[str, Any], options: HarnessOptions) -> Iterator[TaskScores]:
    """Yield the scores of a task, or of each task of a group, from what lm-eval returns."""
    from importlib.metadata import version

    for task, figures in {**results.get("results", {}), **results.get("groups", {})}.items():
        scores: dict[str, float] = {}
        errors: dict[str, float] = {}
        for key, value in figures.items():
            name, comma, filtered = key.partition(",")
            if not comma or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            name = name if filtered == "none" else f"{name}-{filtered}"
            kind = errors if "_stderr" in name else scores
            kind[name.replace("_stderr", "")] = float(value)
        record = {
            "harness": "lm-eval",
            "version": version("lm-eval"),
            "task_version": results.get("versions", {}).get(task),
            "shots": results.get("n-shot", {}).get(task),
            "rows": results.get("n-samples", {}).get(task, {}).get("effective"),
            "limit": options.limit,
            "chat_template": options.chat,
        }
        yield TaskScores(task, scores, errors, {k: v for k, v in record.items() if v is not None})


def _save(run: Any, checkpoint: str, scores: TaskScores) -> None:
    from ftcli.core.atomic import write_json

    if not is_plain_name(scores.task):
        raise UserError(f"{scores.task!r} is no name of a file.", where="--tasks")
    folder = run.dir.path / "eval"
    folder.mkdir(exist_ok=True)
    write_json(
        folder / f"{scores.task}.json",
        {
            "task": scores.task,
            "checkpoint": checkpoint,
            "step": run.evaluated_step,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "scores": scores.scores,
            "standard_errors": scores.errors,
            **scores.record,
        },
    )
