"""LT-SFT's two phases in one run: full finetuning, selection, rewind, sparse finetuning (arXiv 2110.07560, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ftcli.core.errors import UserError
from ftcli.papers.lt_sft import sparse_diff
from ftcli.papers.lt_sft.masking import GradientMask
from ftcli.papers.lt_sft.selection import select_moved, select_random

if TYPE_CHECKING:
    from torch import Tensor

    from ftcli.core.run import Run
    from ftcli.trainer.ending import Outcome

MASKS = "selected.safetensors"  # of the run: which entries the second phase trains
DIFF = "sparse_diff.safetensors"  # of the run: what it has changed


@dataclass
class LotteryTicket:
    """Trains the run twice: all that the method trains, then from the start those entries that moved most.

    Each phase is a training of its own: generators seeded alike, a new optimizer, the whole schedule, the
    data from their beginning. `trainer.max_steps` is the length of the second phase; its steps alone are
    checkpointed, logged and evaluated. A run that ends in the first phase begins anew when it is resumed,
    one that ends in the second goes on with the entries that it has selected. The head (new modules, and what
    `head` names) is trained whole in both phases.
    """

    entries: int  # K, of all tensors together
    full_steps: int  # optimizer steps of the first phase
    choice: Literal["moved", "random"] = "moved"  # random: without a first phase
    head: list[str] = field(default_factory=list)  # patterns of trained parameters outside of K

    def fit(self, run: Run, checkpoint: Path | None = None) -> Outcome:
        """Train `run` to the end, or until a stop is requested.

        Args:
            checkpoint: the folder to continue from, of the second phase.

        Raises:
            UserError: there are several ranks, fewer entries than are to be selected, or no parameter of `head`.
        """
        if run.accelerator.num_processes > 1:
            what = "the two phases of LT-SFT cannot be distributed over ranks."
            raise UserError(what, where="pipeline", fix="train without -p")
        run.load_model()
        start = copy_tensors(self.list_maskable(run))
        masks, stopped = self._find_masks(run, start)
        if stopped is not None:
            return stopped
        seed_generators(run)
        run.configured_callbacks["lottery_ticket"] = GradientMask(masks)
        outcome = run.trainer.fit(run, checkpoint)
        outcome.metrics["trainable_parameters"] = count_trained(run, masks)
        if run.dir is not None and outcome.status == "finished":
            dense = {n: t for n, t in run.get_trained_tensors().items() if n not in start}
            diff = sparse_diff.take_diff(start, self.list_maskable(run), dense)
            sparse_diff.save_diff(diff, run.dir.path / DIFF)
        return outcome

    def list_maskable(self, run: Run) -> dict[str, Tensor]:
        """Return the trained tensors of the model by name, without those of the head.

        Raises:
            UserError: a pattern of `head` matches no trained parameter.
        """
        from ftcli.models.heads import get_new_modules

        trained = run.get_trained_tensors()
        for pattern in self.head:
            if not any(fnmatchcase(name, pattern) for name in trained):
                what = f"'{pattern}' matches no parameter that the method trains."
                raise UserError(what, where="pipeline.head", fix="name it in method.train too")
        patterns = [*self.head, *(f"{module}.*" for module in get_new_modules(run.model))]
        return {n: t for n, t in trained.items() if not any(fnmatchcase(n, p) for p in patterns)}

    def _find_masks(
        self, run: Run, start: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Outcome | None]:
        """Return the masks, and the outcome of the first phase if it was stopped before its end.

        An earlier start of the run may have selected the entries already.
        """
        path = run.dir.path / MASKS if run.dir is not None else None
        if path is not None and path.exists():
            return sparse_diff.load_masks(path, start), None
        if self.choice == "random":
            masks = select_random(start, self.entries, run.seed)
        else:
            begin = copy_tensors(run.get_trained_tensors())  # with heads
            outcome = self._train_fully(run)
            if outcome.status != "finished":
                return {}, outcome
            masks, threshold = select_moved(start, self.list_maskable(run), self.entries)
            run.method.load_trained_tensors(run.model, begin)
            outcome.context.append_event("selected", threshold=threshold)
        if path is not None:
            sparse_diff.save_masks(masks, path)
        return masks, None

    def _train_fully(self, run: Run) -> Outcome:
        """Train all weights, without a record in the run directory."""
        trainer: Any = replace(
            run.trainer,
            max_steps=self.full_steps,
            eval_every=None,
            eval_first=False,
            save_every=None,
        )
        with unrecorded(run):
            return trainer.fit(run)  # type: ignore[no-any-return]


def copy_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def count_trained(run: Run, masks: dict[str, Tensor]) -> int:
    """Return how many values the second phase trains: selected entries and heads."""
    heads = sum(t.numel() for n, t in run.get_trained_tensors().items() if n not in masks)
    return heads + sum(int(mask.sum()) for mask in masks.values())


def seed_generators(run: Run) -> None:
    """Seed the generators of Python, numpy and torch as for a run that has just begun."""
    from accelerate.utils import set_seed

    set_seed(run.seed)


@contextmanager
def unrecorded(run: Run) -> Iterator[None]:
    """Write, log and evaluate nothing in the block."""
    evaluators, loggers = run.evaluators, run.loggers
    run.evaluators, run.loggers = {}, {}
    try:
        with run.without_directory():
            yield
    finally:
        run.evaluators, run.loggers = evaluators, loggers
