"""Everything about a job that can be known in seconds, before anything is loaded or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from ftcli.config.effective import value
from ftcli.config.paths import shown
from ftcli.config.plausible import doubts
from ftcli.core.errors import UserError
from ftcli.core.logs import silenced
from ftcli.planning.draft import Draft, NeedsWeights
from ftcli.planning.examples import of_examples
from ftcli.planning.findings import Finding, failed, ok, unknown, warn
from ftcli.planning.fit import alternatives, verdict
from ftcli.planning.machine import free_disk
from ftcli.planning.plan import Plan
from ftcli.planning.sample import Sample, findings, sampled, template
from ftcli.planning.schedule import Schedule


class Check:
    """The checks of one job, in the order in which a user wants to read them.

    Args:
        composed: a job that was composed and validated.
        gpu: GB of the GPU to check against; None takes this machine.
    """

    def __init__(self, composed: Any, gpu: float | None = None) -> None:
        self.composed, self.gpu = composed, gpu
        self.draft = Draft(composed, gpu is not None)
        self.sample: Sample | None = None

    def findings(self) -> Iterator[Finding]:
        """One finding after the other, as each is known; notes on the data are among them."""
        with silenced("data"):
            yield from self._findings()

    def _findings(self) -> Iterator[Finding]:
        name = shown(self.composed.job)
        yield ok("config", f"{name}: {len(self.composed.origins)} values, known and consistent")
        for doubt in doubts(self.composed):
            yield unknown("config", doubt)
        for name, check in self._checks().items():
            try:
                yield from check()
            except UserError as error:
                mark = unknown if isinstance(error, NeedsWeights) else failed
                yield mark(name, self._located(error, name))

    def _checks(self) -> dict[str, Callable[[], Iterator[Finding]]]:
        checks = {
            "settings": self._settings, "model": self._model, "targets": self._targets,
            "data": self._data, "packing": self._packing,
        }  # fmt: skip
        if value(self.composed, "trainer.max_steps") == 0:  # it judges or draws, and keeps nothing
            return checks | {"memory": self._no_step}
        return checks | {"memory": self._memory, "disk": self._disk}

    def _located(self, error: UserError, name: str) -> UserError:
        """The error with file:line where a component only knew its key."""
        from ftcli.config.building import located

        group = "method" if name == "targets" else name  # `settings` are of several
        return located(error, self.composed, group if group in self.composed.config else "")

    def _settings(self) -> Iterator[Finding]:
        """What parts of the job refuse when they are built that no later check builds."""
        _ = self.draft.scheduler, self.draft.trainer, self.draft.optimizer, self.draft.evaluators
        yield from ()

    def _model(self) -> Iterator[Finding]:
        from ftcli.config import base_recipe
        from ftcli.planning.files import weights_finding

        if not base_recipe.is_there(self.composed):
            steps = base_recipe.steps(self.composed)
            text = f"{self.composed.base} is not trained yet: the first run of this job does that"
            text += f" ({steps} steps)" if steps else ""
            yield warn("model", f"{text}; its layers are known from its recipe")
            return
        yield weights_finding(self.draft.source)

    def _targets(self) -> Iterator[Finding]:
        from ftcli.planning.trained import layers
        from ftcli.planning.weights import weigh

        model = self.draft.model
        weights = weigh(model)
        share = 100 * weights.trainable / (weights.parameters + weights.adapter_parameters)
        text = f"{weights.trainable:,} of {weights.parameters:,} parameters trained ({share:.3g} %)"
        yield ok("targets", f"{text}: {layers(model)}")
        yield from self._left_out(model)

    def _left_out(self, model: Any) -> Iterator[Finding]:
        """Weight matrices that the adapter does not reach; a warning where they are many."""
        from ftcli.methods.left_out import MANY, list_left_out, summarise

        found = list_left_out(model, getattr(self.draft.method, "left_out", None))
        if not found:
            return
        text = f"left out: {summarise(found)}"
        if sum(item.share for item in found) < MANY:
            yield ok("targets", text)
        else:
            yield warn("targets", text, "method=full trains every weight")

    def _data(self) -> Iterator[Finding]:
        from ftcli.data.figures import warnings
        from ftcli.data.rows import listed
        from ftcli.data.unused import Unused

        data = self.draft.data
        try:
            first = next(iter(data.examples("train")), None)
        except UserError as error:
            remote = self.draft.remote and error.where == "data.path"
            yield (unknown if remote else failed)("data", self._located(error, "data"))
            return
        if first is None and hasattr(data, "refuse_empty"):
            data.refuse_empty("train")
        if first is None:
            what, where = f"no row of {data.path} can be used.", self.composed.where("data.path")
            yield failed(
                "data", UserError(what, where, "data.on_error=stop names the first bad row")
            )
            return
        columns = ", ".join(first["row"])
        unused = data.unused() if hasattr(data, "unused") else Unused()
        left = f"; not used: {listed(unused.columns)}" if unused.columns else ""
        yield ok("data", f"{data.path}: columns {columns}{left}; splits {', '.join(data.splits)}")
        if note := unused.note():
            yield warn("data", note, "name its field: data.columns.<field>=<column>")
        try:
            tokenizer = self.draft.tokenizer
        except UserError as error:
            yield unknown("tokens", error)
            return
        if hasattr(data, "preview"):  # no text
            yield from of_examples(data, tokenizer, self.draft.source.hf_config())
            return
        yield template(data, tokenizer, first)
        with sampled(data, tokenizer) as sample:
            self.sample = sample
        yield from findings(sample, data.max_length, turns="text" not in first)
        for line in warnings(sample.meta, "sample"):
            yield warn("data", line.removeprefix("sample: "), "ftcli preview shows such rows")
        yield from self._splits()

    def _splits(self) -> Iterator[Finding]:
        """Every split that will be judged has a row."""
        data = self.draft.data
        for split in data.splits:
            if next(iter(data.examples(split)), None) is None:
                yield warn("data", f"the split '{split}' is empty.", f"data.{split}=null")

    def _packing(self) -> Iterator[Finding]:
        from ftcli.planning.packing import packing_finding

        yield from packing_finding(self.draft)

    @cached_property
    def plan(self) -> Plan:
        """The plan for full micro-batches; rows as long as the longest where all were seen."""
        longest = int(self.sample.lengths.max()) if self.sample and self.sample.whole else None
        return Plan(self.draft, self.gpu, Schedule(longest=longest))

    def _no_step(self) -> Iterator[Finding]:
        yield ok("memory", "trainer.max_steps=0: no step is taken, so that none is planned")

    def _memory(self) -> Iterator[Finding]:
        from ftcli.planning.display import gigabytes

        plan = self.plan
        rows, length = self.draft.trainer.batch_size, plan.row_tokens
        text = f"{gigabytes(plan.memory.total)} of {gigabytes(plan.machine.memory)} "
        size = f"{rows} rows of {length} tokens" if length > 1 else f"{rows} examples"
        text += f"on {plan.machine.name}, micro-batch of {size}"
        ways = [] if plan.fits else alternatives(plan)
        error = verdict(plan, ways)
        if error is None:
            yield ok("memory", text)
        elif self._sample_fits():
            yield warn(
                "memory", f"rows like the sampled ones fit, full ones not: {error.what}", error.fix
            )
        else:
            yield failed("memory", error)
        yield from self._fallback()

    def _sample_fits(self) -> bool:
        """Whether a micro-batch of the sampled lengths fits, though one of full rows does not."""
        if self.sample is None or self.draft.data.packing == "bins":
            return False
        documents = self.plan.documents * self.draft.trainer.batch_size
        rows = documents * self.sample.lengths.max() / self.plan.row_tokens
        return self.plan.estimate.memory(rows).least <= self.plan.machine.memory

    def _fallback(self) -> Iterator[Finding]:
        """An optimizer that is for CUDA only has a stand-in."""
        optimizer = self.draft.optimizer
        fallback = getattr(optimizer, "fallback", None)
        if fallback and self.plan.machine.kind != "cuda":
            text = f"without CUDA {fallback} takes the place of {optimizer.optimizer_class}"
            yield warn("optimizer", text)

    def _disk(self) -> Iterator[Finding]:
        from ftcli.planning.display import gigabytes

        need, free = self.plan.disk, free_disk(self.plan.root)
        text = f"a run keeps {gigabytes(need)} in {self.plan.root}, {gigabytes(free)} are free"
        if need > free:
            yield failed(
                "disk",
                UserError(text, fix="run.dir=FOLDER on another disk, or trainer.keep_last=1"),
            )
        else:
            yield ok("disk", text)


def check(job: str, overrides: Sequence[str] = (), gpu: float | None = None) -> Check:
    """Compose and validate a job, ready to be checked.

    Raises:
        UserError: the configuration is not sound.
    """
    from ftcli.config import compose, validate

    composed = compose(job, overrides)
    validate(composed)
    return Check(composed, gpu)
