"""The steps of `ftcli delta`: from folders to folders, with what was done in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ftcli.deltas import compeft, darex, lines, soup, storage, ternary, transfer
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.bench import Bench
from ftcli.deltas.delta import Delta, compose
from ftcli.deltas.publish import Result, publish
from ftcli.deltas.weights import Lazy
from ftcli.errors import UserError

PRUNINGS = Literal["dare", "darex_q", "magnitude"]
QS = Literal["fixed", "validation", "output", "analytic"]


@dataclass(frozen=True)
class Report:
    """What was written, in figures, and the next command."""

    folder: str
    bytes: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    then: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return asdict(self)


def diff(
    source: str, to: str, base: str | None = None, product: bool = False,
    dtype: torch.dtype = torch.float32, force: bool = False,
) -> Report:  # fmt: skip
    """Save finetuned minus base."""
    opened = _Source(source, base, product)
    delta = opened.delta
    size = storage.save(delta, to, dtype, force=force, places=opened.places)
    figures = {"tensors": len(delta), "entries": delta.entries, "norm": delta.norm()}
    return Report(to, size, figures, f"ftcli delta apply {to} --to FOLDER")


def apply(
    source: str, to: str, base: str | None = None, scale: float = 1.0, revert: bool = False,
    force: bool = False,
) -> Report:  # fmt: skip
    """Write base plus delta, or a finetuned model minus its delta."""
    opened = _Source(source, base)
    delta = opened.delta if scale == 1 else opened.delta.scale(scale)
    if not revert:
        return _written(opened, delta, to, force)
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
    base: str | None = None, product: bool = False, force: bool = False,
) -> Report:  # fmt: skip
    """LiNeS on one change, or on the sum of several."""
    opened = _Source(sources[0], base, product or len(sources) > 1)
    parts = [opened.delta, *(Delta.of(one, base, True) for one in sources[1:])]
    merged = compose(parts) if len(parts) > 1 else parts[0]
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
    return _written(opened, lines.scaled(merged, alpha, beta, outside), to, force, figures)


def compress(
    source: str, to: str, density: float = 0.2, alpha: float = 1.0,
    codec: ternary.Codec = "golomb", search: bool = False, base: str | None = None,
    product: bool = False, metric: str = "eval.loss", force: bool = False,
) -> Report:  # fmt: skip
    """ComPEFT: a ternary delta on disk."""
    storage.fresh(to, force)
    opened = _Source(source, base, product)
    delta, figures = opened.delta, {}
    if search:
        bench = opened.bench(metric)
        density, alpha, tried = compeft.search(
            delta, lambda d: bench.score(opened.tensors(d)), bench.better
        )
        figures = {metric: min(v for d, a, v in tried if (d, a) == (density, alpha))}
    changed, coded = compeft.compress(delta, density, alpha)
    data = ternary.write(coded, codec)
    storage.save(changed, to, coded=data, force=force, places=opened.places)
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
    opened = _Source(source, base, product)
    if method == "magnitude":
        return _written(opened, compeft.pruned(opened.delta, 1 - p), to, force, {"p": p})
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
    return _written(opened, changed, to, force, figures)


def make_soup(
    sources: Sequence[str], to: str, recipe: Literal["uniform", "greedy", "learned"] = "greedy",
    accept: soup.Accept = "ge", granularity: soup.Granularity = "layer", epochs: int = 5,
    metric: str = "eval.loss", split: str | None = None, force: bool = False,
) -> Report:  # fmt: skip
    """A soup of finished runs, or of the trials of a sweep."""
    runs = members(sources)
    opened = [_Source(run, product=True) for run in runs]
    pot = soup.Pot([one.delta for one in opened], opened[0].base, opened[0].bench(metric))
    figures: dict[str, Any] = {Path(r).name: s for r, s in zip(runs, pot.singles, strict=True)}
    if recipe == "learned":
        made, weights = pot.learned(granularity, epochs=epochs)
        mean = weights.mean(0).tolist()
        figures |= {f"weight of {Path(r).name}": w for r, w in zip(runs, mean, strict=True)}
    else:
        chosen = list(range(len(runs))) if recipe == "uniform" else pot.greedy(accept)[0]
        made = soup.uniform([pot.members[i] for i in chosen])
        figures["ingredients"] = ", ".join(Path(runs[i]).name for i in chosen)
    figures[f"{metric} of the soup"] = pot.judge(made)
    if split is not None:
        figures[f"{metric} on {split}"] = pot.judge(made, split)
    return _written(opened[0], made, to, force, figures)


def move(
    source: str, target: str, to: str, base: str | None = None, factor: float = 1.0,
    force: bool = False,
) -> Report:  # fmt: skip
    """The change of one base added to another."""
    opened, there = _Source(source, base), Artefact.open(target)
    tensors = transfer.transferred(opened.delta, there, factor)
    own = opened.delta.source.others if opened.delta.source is not None else []
    tokens = [file for file in own if not file.name.endswith("config.json") or "token" in file.name]
    files: tuple[list[Path], ...]
    if opened.delta.kind == "adapter":
        files, config = (own,), {"base_model_name_or_path": str(there.folder)}
    else:
        files, config = (there.others, tokens), transfer.changed_config(tensors, there)
    record = {
        "said": [*opened.delta.said, f"{factor:g} times added to {target}"],
        "base": there.fingerprint,
    }
    result = Result(opened.delta.kind, tensors, files, opened.run, target, config, record)
    done = publish(result, to, force)
    return Report(to, done["bytes"], {"tensors": len(opened.delta)}, _look(to, opened.run))


def members(sources: Sequence[str]) -> list[str]:
    """Run directories; of a sweep's folder its finished trials.

    Raises:
        UserError: fewer than two are finished.
    """
    from ftcli.run.rundir import RunDir

    found: list[str] = []
    for source in sources:
        inside = sorted(Path(source).glob("*/config.yaml"))
        folders = [source] if (Path(source) / "config.yaml").exists() or not inside else [
            str(file.parent) for file in inside if not file.parent.is_symlink()
        ]  # fmt: skip
        found += [f for f in folders if RunDir(f).result().get("status", "finished") == "finished"]
    if len(found) < 2:
        raise UserError(
            f"a soup takes two models or more; there is {len(found)} that is finished.",
            fix="ftcli delta soup sweeps/NAME/latest --to FOLDER",
        )
    return found


class _Source:
    """A source of the command line: its delta, what it began from, and the run that can judge it."""

    def __init__(self, path: str, base: str | None = None, product: bool = False) -> None:
        self.path = path
        self.delta = Delta.of(path, base, product)
        self.run = Path(path) if (Path(path) / "config.yaml").exists() else None
        if base is not None:
            self.base = Artefact.open(base)
        elif storage.is_delta(path):
            self.base = self._base_of_delta()
        else:
            self.base = Artefact.open(path).base

    def _base_of_delta(self) -> Artefact:
        named = storage.origin(self.path)
        self.run = Path(named["run"]) if named.get("run") and Path(named["run"]).exists() else None
        if not named.get("base"):
            raise UserError(f"{self.path} does not say where its base lies.", "--base")
        return Artefact.open(named["base"])

    @property
    def places(self) -> dict[str, str]:
        """Where base and run lie."""
        run = {"run": str(self.run.resolve())} if self.run else {}
        return {"base": str(self.base.folder.resolve()), **run}

    def tensors(self, delta: Delta) -> Lazy:
        """What the model or adapter is with a changed delta."""
        return delta.apply(self.base)

    def bench(self, metric: str) -> Bench:
        """The run as a judge.

        Raises:
            UserError: the source is no run.
        """
        if self.run is None:
            raise UserError(
                f"{self.path} is no run, so there are no held-out rows to judge by.",
                fix="give the run directory",
            )
        return Bench(self.run, self.delta.kind, metric)


def _written(
    opened: _Source, delta: Delta, to: str, force: bool, figures: Mapping[str, Any] | None = None
) -> Report:
    own = delta.source.others if delta.source is not None else []
    files = [own] if delta.kind == "adapter" else [opened.base.others, own]
    record = storage.record(delta) | {"figures": dict(figures or {})}
    done = publish(
        Result(delta.kind, opened.tensors(delta), tuple(files), opened.run, record=record),
        to,
        force,
    )
    said = {"norm of the change": delta.norm(), **(figures or {})}
    return Report(to, done["bytes"], said, _look(to, opened.run))


def _look(to: str, run: Path | None) -> str:
    return f"ftcli eval {to}" if run else f"ftcli eval {to} --config JOB"


def _search_gamma(
    opened: _Source, control: str, outside: lines.Outside
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
    opened: _Source, p: float, names: Sequence[str], search: QS,
    grid: tuple[float, float, float], metric: str,
) -> Any:  # fmt: skip
    from ftcli.deltas.calibration import OutputChange, analytic, mean_inputs

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
