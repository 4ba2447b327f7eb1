"""Measurements of the lt_sft recipe, by the names its claims use; each takes the folder of a run of the task.

The language vector that is added is that of the run of the same kind and seed: `task_dense` goes with `language_dense`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Tensor

    from ftcli.deltas.delta import Delta
    from ftcli.papers.lt_sft.sparse_diff import SparseDiff
    from ftcli.reproduce.deltas import RunAnalysis

SOUTH, NORTH = "south", "test"  # labelled rows of the unseen language, and of the task's own
EMBEDDINGS = 119547  # tokens of mBERT, the only figure in which it differs from BERT base
K_TASK, K_LANGUAGE = 14155776, 7667712  # entries of the paper's vectors


@measure
def target_gain(run: Path) -> float:
    """Loss on labelled southern rows with both vectors minus that with the task's alone, nats a row."""
    return target_loss(run) - _losses(run)["task alone, south"]


@measure
def target_loss(run: Path) -> float:
    """Loss on labelled southern rows with both vectors, nats a row."""
    return _losses(run)["both, south"]


@measure
@cache
def target_accuracy_gain(run: Path) -> float:
    """Accuracy on labelled southern rows with both vectors minus that with the task's alone, in points."""
    from ftcli.evaluation.label_words import LabelWords

    task, language = _open_vectors(run)
    accuracies = []
    for change in (_add(task.delta, language.delta), task.delta):
        task.evaluator.load(change.apply(task.base))
        accuracies.append(LabelWords(SOUTH)(task.evaluator.run)["accuracy"])
    return accuracies[0] - accuracies[1]


@measure
def language_loss_rise(run: Path) -> float:
    """Loss on southern text with both vectors minus that with the language's alone, nats a token."""
    return _losses(run)["both, text"] - _losses(run)["language alone, text"]


@measure
def task_loss_rise(run: Path) -> float:
    """Loss on labelled northern rows with both vectors minus that with the task's alone, nats a row."""
    return _losses(run)["both, north"] - _losses(run)["task alone, north"]


@measure
def shared_entries(run: Path) -> float:
    """Share of the entries that the task changes which the language changes too."""
    task, language = (analysis.delta for analysis in _open_vectors(run))
    changed = sum(int((task[name] != 0).sum()) for name in task)
    both = sum(int(((task[name] != 0) & (language[name] != 0)).sum()) for name in task)
    return both / changed


@measure(exact=True)
def selected_excess(run: Path) -> float:
    """Number of selected entries minus K."""
    from ftcli.config import load

    wanted = load(run / "config.yaml").config["pipeline"]["entries"]
    return sum(int(mask.sum()) for mask in _read_masks(run).values()) - wanted


@measure(exact=True)
def changed_outside(run: Path) -> float:
    """Number of entries outside of the head that were not selected and differ from the base in any bit."""
    from ftcli.reproduce.deltas import analyse_run

    delta, masks, head = analyse_run(run).delta, _read_masks(run), _read_diff(run).dense
    inside = sum(int(((delta[name] != 0) & mask).sum()) for name, mask in masks.items())
    return sum(int((delta[name] != 0).sum()) for name in delta if name not in head) - inside


@measure(exact=True)
def order_difference(run: Path) -> float:
    """Largest difference between base + task + language and base + language + task."""
    task, language = (analysis.delta for analysis in _open_vectors(run))
    one, other = _add(task, language), _add(language, task)
    return max((one[name] - other[name]).abs().max().item() for name in one)


@measure(exact=True)
def file_difference(run: Path) -> float:
    """Largest difference between the file of sparse differences and trained minus base."""
    from ftcli.reproduce.deltas import analyse_run

    delta, stored = analyse_run(run).delta, _read_diff(run)
    return max((delta[name] - stored.expand(name)).abs().max().item() for name in stored.shapes)


@measure(exact=True)
def mbert_task_share(_run: Path) -> float:
    """Entries of the paper's task vectors over the parameters of mBERT, built on the meta device."""
    return K_TASK / _count_mbert()


@measure(exact=True)
def mbert_language_share(_run: Path) -> float:
    """Entries of the paper's language vectors over the parameters of mBERT, built on the meta device."""
    return K_LANGUAGE / _count_mbert()


def _count_mbert() -> int:
    import torch
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        return BertModel(BertConfig(vocab_size=EMBEDDINGS)).num_parameters()


@cache
def _losses(run: Path) -> dict[str, float]:
    """Return the losses of the vectors, alone and added, on rows of the task and on text."""
    task, language = _open_vectors(run)
    evaluator = task.evaluator
    evaluator.run.objective.setup(evaluator.run)  # finds the label words
    both = _add(task.delta, language.delta)
    return {
        "task alone, south": task.loss(task.delta, SOUTH),
        "both, south": task.loss(both, SOUTH),
        "task alone, north": task.loss(task.delta, NORTH),
        "both, north": task.loss(both, NORTH),
        "language alone, text": language.loss(language.delta),
        "both, text": language.loss(both),
    }


def _open_vectors(run: Path) -> tuple[RunAnalysis, RunAnalysis]:
    """Return the analyses of a run of the task and of the language's of the same kind and seed."""
    from ftcli.reproduce.deltas import analyse_run, find_partner_run, read_name

    partner = read_name(run)[0].replace("task", "language")
    return analyse_run(run), analyse_run(find_partner_run(run, partner))


def _add(first: Delta, second: Delta) -> Delta:
    from ftcli.deltas.delta import sum_deltas

    return sum_deltas([first, second])


def _read_masks(run: Path) -> dict[str, Tensor]:
    from ftcli.papers.lt_sft.pipeline import MASKS
    from ftcli.papers.lt_sft.sparse_diff import load_masks
    from ftcli.reproduce.deltas import analyse_run

    delta = analyse_run(run).delta
    return load_masks(run / MASKS, {name: delta[name] for name in _read_diff(run).shapes})


def _read_diff(run: Path) -> SparseDiff:
    from ftcli.papers.lt_sft.pipeline import DIFF
    from ftcli.papers.lt_sft.sparse_diff import load_diff

    return load_diff(run / DIFF)
