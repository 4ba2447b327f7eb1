"""The steps of `ftcli delta`: from folders to folders, with what was done in figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ftcli.core.errors import UserError
from ftcli.deltas import mergers, storage, ternary
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.bench import Bench
from ftcli.deltas.delta import Delta
from ftcli.deltas.product import strengthened
from ftcli.deltas.publish import Result, publish
from ftcli.deltas.source import Report, Source, finished_runs
from ftcli.deltas.weights import Lazy
from ftcli.papers.compeft import compression as compeft
from ftcli.papers.darex import pruning as darex
from ftcli.papers.finetuning_transfer import transfer
from ftcli.papers.lines import scaling as lines
from ftcli.papers.model_soups import soup

PRUNINGS = Literal["dare", "darex_q", "magnitude"]
QS = Literal["fixed", "validation", "output", "analytic"]


def diff(
    source: str, to: str, base: str | None = None, product: bool = False,
    dtype: torch.dtype = torch.float32, force: bool = False,
) -> Report:  # fmt: skip
    """Save finetuned minus base."""
    opened = Source(source, base, product)
    delta = opened.delta
    size = storage.save(delta, to, dtype, force=force, at=opened.places, base=opened.base)
    figures = {"tensors": len(delta), "entries": delta.entries, "norm": delta.norm()}
    figures["entries changed by rounding"] = _rounded(delta, storage.load(to), opened.base)
    return Report(to, size, figures, f"ftcli delta apply {to} --to FOLDER")


def _rounded(delta: Delta, saved: Delta, base: Artefact) -> int:
    """Finetuned values that base plus saved change does not give back to the bit."""
    trained, again = delta.apply(base), saved.apply(base)
    return sum(int((trained[name] != again[name]).sum()) for name in delta)


def apply(
    source: str, to: str, base: str | None = None, scale: float = 1.0, revert: bool = False,
    force: bool = False,
) -> Report:  # fmt: skip
    """Write base plus delta, or a finetuned model minus its delta."""
    opened = Source(source, base)
    delta = opened.delta if scale == 1 else strengthened(opened.delta, scale)
    if not revert:
        return opened.write(delta, to, force)
    if base is None or delta.kind != "model":
        raise UserError("what shall be taken back?", "--base", "--base FINETUNED, a whole model")
    finetuned = Artefact.open(base)
    tensors = delta.revert(finetuned.weights)
    record = {"said": [f"{finetuned.folder} minus {source}"], "base": delta.base}
    done = publish(Result("model", tensors, (finetuned.others,), record=record), to, force)
    exact = Artefact.open(to).fingerprint == delta.base
    return Report(
        to, done["bytes"], {"the base to the bit": exact}, f"ftcli eval {to} --config JOB"
    )


def scale(
    sources: Sequence[str], to: str, gamma: float | None = None, alpha: float | None = None,
    beta: float | None = None, outside: lines.Outside = "alpha", control: str | None = None,
    merger: mergers.Merger = "sum", density: float = mergers.DENSITY, base: str | None = None,
    product: bool = False, force: bool = False,
) -> Report:  # fmt: skip
    """LiNeS on one change, or on what several are merged into.

    Raises:
        UserError: one change alone is to be merged, or nothing says how to scale.
    """
    if merger != "sum" and len(sources) == 1:
        raise UserError(
            f"{merger} merges several changes, and there is one.", "--merge", "name more"
        )
    opened = Source(sources[0], base, product or len(sources) > 1)
    parts = [opened.delta, *(Delta.of(one, base, True) for one in sources[1:])]
    merged = mergers.merged(parts, merger, density) if len(parts) > 1 else parts[0]
    figures: dict[str, Any] = {}
    if control is not None:
        gamma, tried = _search_gamma(opened, control, outside)
        figures |= {f"gamma {g:g}": value for g, value in tried.items()}
    if gamma is not None:
        alpha, beta = lines.single(gamma)
    if beta is None:
        raise UserError("how shall it be scaled?", fix="--gamma 0.3, or --beta 0.7 with --alpha")
    alpha = lines.share(parts, merged) if alpha is None else alpha
    figures |= {"alpha": alpha, "beta": beta, "changes": len(parts)}
    return opened.write(lines.scaled(merged, alpha, beta, outside), to, force, figures)


def compress(
    source: str, to: str, density: float = 0.2, alpha: float = 1.0,
    codec: ternary.Codec = "golomb", search: bool = False, base: str | None = None,
    product: bool = False, metric: str = "eval.loss", force: bool = False,
) -> Report:  # fmt: skip
    """ComPEFT: a ternary delta on disk."""
    storage.fresh(to, force)
    opened = Source(source, base, product)
    delta, figures = opened.delta, {}
    if search:
        bench = opened.bench(metric)
        density, alpha, tried = compeft.search(
            delta, lambda d: bench.score(opened.tensors(d)), bench.better
        )
        figures = {metric: min(v for d, a, v in tried if (d, a) == (density, alpha))}
    changed, coded = compeft.compress(delta, density, alpha)
    data = ternary.write(coded, codec)
    storage.save(changed, to, coded=data, force=force, at=opened.places, base=opened.base)
    before = delta.entries * delta.dtype.itemsize
    figures |= {
        "density": density, "alpha": alpha, "scale": coded.scale, "entries": delta.entries,
        "bytes before": before, "bytes at 16 bit": 2 * delta.entries,
        "times smaller": before / len(data), "times smaller than 16 bit": 2 * delta.entries / len(data),
    }  # fmt: skip
    return Report(to, len(data), figures, f"ftcli delta apply {to} --to FOLDER")


def prune(
    source: str, to: str, p: float = 0.9, method: PRUNINGS = "dare", q: float | None = None,
    search: QS = "fixed", low: float | None = None, high: float = 1.0, step: float = 0.1,
    seed: int = 0, exclude: Sequence[str] = (), base: str | None = None, product: bool = False,
    metric: str = "eval.loss", force: bool = False,
) -> Report:  # fmt: skip
    """DARE, DAREx-q or magnitude pruning."""
    opened = Source(source, base, product)
    if method == "magnitude":
        return opened.write(compeft.pruned(opened.delta, 1 - p), to, force, {"p": p})
    names = darex.scope(opened.delta, exclude)
    found: Any = q
    if method == "darex_q" and q is None:
        if search == "fixed":
            raise UserError("darex_q needs a q.", "--q", "--q 0.3, or --search validation")
        found = _search_q(
            opened, p, names, search, (1 - p if low is None else low, high, step), metric
        )
    changed = darex.dropped(opened.delta, p, found, seed, names)
    mean = sum(found.values()) / len(found) if isinstance(found, dict) else found or 1 - p
    figures = {"p": p, "q": mean, "tensors pruned": len(names), "bits an entry": darex.kept_bits(p)}
    return opened.write(changed, to, force, figures)


def make_soup(
    sources: Sequence[str], to: str, recipe: Literal["uniform", "greedy", "learned"] = "greedy",
    accept: soup.Accept = "ge", granularity: soup.Granularity = "layer", epochs: int = 5,
    metric: str = "eval.loss", split: str | None = None, force: bool = False,
) -> Report:  # fmt: skip
    """A soup of finished runs, or of the trials of a sweep."""
    runs = finished_runs(sources)
    opened = [Source(run, product=True) for run in runs]
    deltas, names = [one.delta for one in opened], [Path(run).name for run in runs]
    if recipe == "uniform":
        return opened[0].write(soup.uniform(deltas), to, force, {"ingredients": ", ".join(names)})
    pot = soup.Pot(deltas, opened[0].base, opened[0].bench(metric))
    figures: dict[str, Any] = dict(zip(names, pot.singles, strict=True))
    if recipe == "learned":
        made, weights = pot.learned(granularity, epochs=epochs)
        mean = weights.mean(0).tolist()
        figures |= {f"weight of {name}": w for name, w in zip(names, mean, strict=True)}
    else:
        chosen = pot.greedy(accept)[0]
        made = soup.uniform([pot.members[i] for i in chosen])
        figures["ingredients"] = ", ".join(names[i] for i in chosen)
    figures[f"{metric} of the soup"] = pot.judge(made)
    if split is not None:
        figures[f"{metric} on {split}"] = pot.judge(made, split)
    return opened[0].write(made, to, force, figures)


def move(
    source: str, target: str, to: str, base: str | None = None, factor: float = 1.0,
    force: bool = False,
) -> Report:  # fmt: skip
    """The change of one base added to another."""
    opened, there = Source(source, base), Artefact.open(target)
    tensors = transfer.transferred(opened.delta, there, factor)
    own, run = opened.files, opened.run
    tokens = opened.delta.source.tokenizer if opened.delta.source is not None else []
    files: tuple[list[Path], ...]
    if opened.delta.kind == "adapter":
        files, config = (there.tokenizer, own), {"base_model_name_or_path": str(there.folder)}
    else:
        files, config = (there.others, tokens), transfer.changed_config(tensors, there)
        run = None if config else run  # a run's base has no rows for new tokens
    record = {
        "said": [*opened.delta.said, f"{factor:g} times added to {target}"],
        "base": there.fingerprint,
    }
    result = Result(opened.delta.kind, tensors, files, run, target, config, record)
    done = publish(result, to, force)
    return Report(to, done["bytes"], {"tensors": len(opened.delta)}, opened.next(to))


def _search_gamma(
    opened: Source, control: str, outside: lines.Outside
) -> tuple[float, dict[float, float]]:
    """By the run's own held-out rows and those of another run, the control."""
    delta = opened.delta
    own, other = opened.bench("eval.loss"), Bench(control, delta.kind)

    def both(change: Delta) -> tuple[float, float]:
        tensors = opened.tensors(change)
        return own.score(tensors), other.score(tensors)

    return lines.search(
        lambda gamma: both(lines.scaled(delta, *lines.single(gamma), outside)),
        finetuned=own.score(opened.tensors(delta)),
        pretrained=other.score(opened.tensors(delta.scale(0.0))),
    )


def _search_q(
    opened: Source, p: float, names: Sequence[str], search: QS,
    grid: tuple[float, float, float], metric: str,
) -> Any:  # fmt: skip
    from ftcli.papers.darex.calibration import OutputChange, analytic, mean_inputs

    delta, bench = opened.delta, opened.bench(metric)

    def tensors(q: Any) -> Lazy:
        return opened.tensors(darex.dropped(delta, p, q, names=names))

    if search == "validation":
        return darex.search(lambda q: bench.score(tensors(q)), bench.better, *grid)[0]
    change = OutputChange(bench, opened.tensors(delta))
    if search == "output":
        return darex.search(lambda q: change(tensors(q)), lambda a, b: a < b, *grid)[0]
    inputs = mean_inputs(bench, opened.tensors(delta))
    eta = darex.search(
        lambda eta: change(tensors(analytic(delta, inputs, p, eta))),
        lambda a, b: a < b, 0.1, 0.7, 0.1,
    )[0]  # fmt: skip
    return analytic(delta, inputs, p, eta)
