"""Checks of a job that take seconds, before anything is loaded or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ftcli.config.job import get_effective_value
from ftcli.config.paths import format_path
from ftcli.config.value_ranges import find_unusual_values
from ftcli.core.errors import UserError
from ftcli.core.logs import silence_logger
from ftcli.planning.data_findings import (
    TokenSample,
    check_sample,
    check_template,
    example_findings,
    sample_tokens,
    source_findings,
)
from ftcli.planning.findings import Finding, fail, ok, unknown, warn
from ftcli.planning.fit import explain_misfit, find_alternatives
from ftcli.planning.machine import free_disk
from ftcli.planning.meta_run import MetaRun, NeedsWeights
from ftcli.planning.plan import Plan
from ftcli.planning.schedule import Schedule

if TYPE_CHECKING:
    from torch import nn

    from ftcli.config import ComposedJob


class Check:
    """The checks of one job, from its configuration to memory and disk.

    Args:
        composed: a job that was composed and validated.
        gpu: GB of the GPU to check against; None for this machine.

    Attributes:
        sample: the first documents of text data, once `findings` has read them.
    """

    def __init__(self, composed: ComposedJob, gpu: float | None = None) -> None:
        self.composed, self.gpu = composed, gpu
        self.meta_run = MetaRun(composed, gpu is not None)
        self.sample: TokenSample | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield the findings as each is known, notes on the data among them."""
        with silence_logger("data"):
            yield from self._run_checks()

    def _run_checks(self) -> Iterator[Finding]:
        name = format_path(self.composed.job_file)
        yield ok("config", f"{name}: {len(self.composed.origins)} values, known and consistent")
        for doubt in find_unusual_values(self.composed):
            yield unknown("config", doubt)
        for name, check in self._list_checks().items():
            try:
                yield from check()
            except UserError as error:
                mark = unknown if isinstance(error, NeedsWeights) else fail
                yield mark(name, self._locate(error, name))

    def _list_checks(self) -> dict[str, Callable[[], Iterator[Finding]]]:
        checks = {
            "settings": self._check_settings, "model": self._check_model, "targets": self._check_targets,
            "callbacks": self._check_callbacks, "data": self._check_data, "packing": self._check_packing,
        }  # fmt: skip
        # without steps nothing is trained, and nothing kept
        if get_effective_value(self.composed, "trainer.max_steps") == 0:
            return checks | {"memory": self._note_no_steps}
        return checks | {"memory": self._check_memory, "disk": self._check_disk}

    def _locate(self, error: UserError, name: str) -> UserError:
        """Return the error with file:line in the place of a bare key."""
        from ftcli.config.building import locate_error

        groups = {"targets": "method", "callbacks": "callback"}
        group = groups.get(name, name)  # `settings` are of several
        return locate_error(error, self.composed, group if group in self.composed.config else "")

    def _check_settings(self) -> Iterator[Finding]:
        """Build the parts of the job that no later check builds; they refuse wrong settings."""
        _ = (
            self.meta_run.scheduler,
            self.meta_run.trainer,
            self.meta_run.optimizer,
            self.meta_run.evaluators,
        )
        yield from ()

    def _check_model(self) -> Iterator[Finding]:
        from ftcli.config.composition import count_base_steps, is_base_trained
        from ftcli.planning.model_findings import check_weights

        if not is_base_trained(self.composed):
            steps = count_base_steps(self.composed)
            text = (
                f"{self.composed.base_job} is not trained yet: the first run of this job does that"
            )
            text += f" ({steps} steps)" if steps else ""
            yield warn("model", f"{text}; its layers are known from its recipe")
            return
        yield check_weights(self.meta_run.source)

    def _check_targets(self) -> Iterator[Finding]:
        from ftcli.planning.model_findings import check_statistics, summarize_trained
        from ftcli.planning.weights import count_weights

        model = self.meta_run.model
        weights = count_weights(model)
        share = 100 * weights.trainable / (weights.parameters + weights.adapter_parameters)
        text = f"{weights.trainable:,} of {weights.parameters:,} parameters trained ({share:.3g} %)"
        yield ok("targets", f"{text}: {summarize_trained(model)}")
        yield from self._check_left_out(model)
        yield from check_statistics(model, self.meta_run.method)

    def _check_left_out(self, model: nn.Module) -> Iterator[Finding]:
        """Name the weight matrices that the adapter does not reach; warn where they are many."""
        from ftcli.methods.left_out import MANY, list_left_out, summarise

        matrices = list_left_out(model, getattr(self.meta_run.method, "left_out", None))
        if not matrices:
            return
        text = f"left out: {summarise(matrices)}"
        if sum(item.share for item in matrices) < MANY:
            yield ok("targets", text)
        else:
            yield warn("targets", text, "method=full trains every weight")

    def _check_callbacks(self) -> Iterator[Finding]:
        """Ask each callback whether it can take part in training the model."""
        callbacks = self.meta_run.callbacks
        for callback in callbacks.values():
            callback.check_model(self.meta_run.model)
        if callbacks:
            yield ok("callbacks", ", ".join(callbacks))

    def _check_data(self) -> Iterator[Finding]:
        from ftcli.data.inspection import UnusedColumns
        from ftcli.data.rows import list_names
        from ftcli.data.statistics import list_warnings

        data = self.meta_run.data
        try:
            first = next(iter(data.examples("train")), None)
        except UserError as error:
            remote = self.meta_run.remote and str(error.where).endswith(".path")
            yield (unknown if remote else fail)("data", self._locate(error, "data"))
            return
        if first is None and hasattr(data, "refuse_empty"):
            data.refuse_empty("train")
        if first is None:
            title = getattr(data, "title", data.path)
            what, where = f"no row of {title} can be used.", self.composed.where("data.path")
            yield fail("data", UserError(what, where, "data.on_error=stop names the first bad row"))
            return
        columns = ", ".join(first["row"])
        unused = (
            data.find_unused_columns() if hasattr(data, "find_unused_columns") else UnusedColumns()
        )
        left = f"; not used: {list_names(unused.columns)}" if unused.columns else ""
        title = getattr(data, "title", data.path)
        yield ok("data", f"{title}: columns {columns}{left}; splits {', '.join(data.splits)}")
        if note := unused.note():
            yield warn("data", note, "name its field: data.columns.<field>=<column>")
        yield from source_findings(data)
        try:
            tokenizer = self.meta_run.tokenizer
        except UserError as error:
            yield unknown("tokens", error)
            return
        if hasattr(data, "preview"):  # no text
            yield from example_findings(data, tokenizer, self.meta_run.source.hf_config())
            return
        yield check_template(data, tokenizer, first)
        self.sample = sample = sample_tokens(data, tokenizer)
        yield from check_sample(sample, data.max_length, turns="text" not in first)
        for line in list_warnings(sample.meta, "sample"):
            yield warn("data", line.removeprefix("sample: "), "ftcli preview shows such rows")
        yield from self._check_splits()

    def _check_splits(self) -> Iterator[Finding]:
        """Warn of splits without a row."""
        data = self.meta_run.data
        for split in data.splits:
            if next(iter(data.examples(split)), None) is None:
                yield warn("data", f"the split '{split}' is empty.", f"data.{split}=null")

    def _check_packing(self) -> Iterator[Finding]:
        from ftcli.planning.model_findings import check_packing

        yield from check_packing(self.meta_run)

    @cached_property
    def plan(self) -> Plan:
        """The plan for full micro-batches; rows are as long as the longest where all were sampled."""
        longest = int(self.sample.lengths.max()) if self.sample and self.sample.whole else None
        return Plan(self.meta_run, self.gpu, Schedule(longest=longest))

    def _note_no_steps(self) -> Iterator[Finding]:
        yield ok("memory", "trainer.max_steps=0: no step is taken, so none is planned")

    def _check_memory(self) -> Iterator[Finding]:
        from ftcli.planning.display import format_bytes

        plan = self.plan
        rows, length = self.meta_run.trainer.batch_size, plan.row_tokens
        text = f"{format_bytes(plan.memory.total)} of {format_bytes(plan.machine.memory)} "
        size = f"{rows} rows of {length} tokens" if length > 1 else f"{rows} examples"
        text += f"on {plan.machine.name}, micro-batch of {size}"
        ways = [] if plan.fits else find_alternatives(plan)
        error = explain_misfit(plan, ways)
        if error is None:
            yield ok("memory", text)
        elif self._fits_sample():
            yield warn(
                "memory", f"rows like the sampled ones fit, full ones not: {error.what}", error.fix
            )
        else:
            yield fail("memory", error)
        yield from self._check_fallback()

    def _fits_sample(self) -> bool:
        """Whether a micro-batch of the sampled lengths fits, though one of full rows does not."""
        if self.sample is None or self.meta_run.data.packing == "bins":
            return False
        documents = self.plan.documents * self.meta_run.trainer.batch_size
        rows = documents * self.sample.lengths.max() / self.plan.row_tokens
        return self.plan.estimate.memory(rows).required <= self.plan.machine.memory

    def _check_fallback(self) -> Iterator[Finding]:
        """Warn of another optimizer that takes the place of one that needs CUDA."""
        optimizer = self.meta_run.optimizer
        fallback = getattr(optimizer, "fallback", None)
        if fallback and self.plan.machine.kind != "cuda":
            text = f"without CUDA {fallback} takes the place of {optimizer.optimizer_class}"
            yield warn("optimizer", text)

    def _check_disk(self) -> Iterator[Finding]:
        from ftcli.planning.display import format_bytes

        need, free = self.plan.disk, free_disk(self.plan.root)
        text = (
            f"a run keeps {format_bytes(need)} in {self.plan.root}, {format_bytes(free)} are free"
        )
        if need > free:
            yield fail(
                "disk",
                UserError(text, fix="run.dir=FOLDER on another disk, or trainer.keep_last=1"),
            )
        else:
            yield ok("disk", text)


def prepare_check(job: str, overrides: Sequence[str] = (), gpu: float | None = None) -> Check:
    """Compose and validate a job and return its checks.

    Raises:
        UserError: the configuration is not valid.
    """
    from ftcli.config import compose, validate_and_convert

    composed = compose(job, overrides)
    validate_and_convert(composed)
    return Check(composed, gpu)
