"""A run that is broken off until it ends, and whether what it left is what it should be."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .faults import ERRORS, Fault
from .jobs import KINDS, REPRODUCTION, STEPS, SWEEP, Bench
from .zygote import Ended, command, load

CLOCK = {"time", "tok_s", "mem_gb"}
FIGURES = (
    "status",
    "step",
    "tokens",
    "supervised_tokens",
    "forward_passes",
    "metrics_before",
    "metrics",
)
WHOLE = ("adapter", "model", "samples", "images", "steps.bin")  # what holds no time of day
MOST = 12  # tries until a chain must have ended


@dataclass
class Reference:
    """An undisturbed run of a kind: what it left, how often it touched the disk, how long it took."""

    left: dict[str, Any]
    calls: int
    seconds: float | None


@dataclass
class Chain:
    """One run from its start to its end through everything that happened to it."""

    kind: str
    seed: int
    struck: list[tuple[Fault, Ended]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def reference(bench: Bench, kind: str) -> Reference:
    """Run a kind undisturbed; what it imports its successors find imported.

    Raises:
        RuntimeError: it does not end well.
    """
    place, modules = bench.folder / kind / "undisturbed", bench.folder / "modules"
    ended = command(bench.start(kind, place), place, None, modules)
    if ended.status:
        raise RuntimeError(f"{kind}: status {ended.status}\n{(place / 'screen').read_text()}")
    load(modules)
    seconds = ended.seconds * 0.6 if kind in KINDS else None  # the rest was importing
    return Reference(remains(kind, place), ended.calls, seconds)


def chain(bench: Bench, kind: str, seed: int, undisturbed: Reference) -> Chain:
    """Break a run off one to five times, and let it go on until it ends."""
    source = random.Random(f"{kind} {seed}")
    found = Chain(kind, seed)
    place = bench.folder / kind / str(seed)
    wanted = source.choice([1, 2, 3, 3, 4, 5])
    for _ in range(MOST):
        more = len(found.struck) < wanted
        fault = _drawn(source, undisturbed, _left(kind, place)) if more else None
        ended = command(following(bench, kind, place), place, fault)
        if fault is not None and ended.struck:
            found.struck.append((fault, ended))
            found.wrong += _said_wrong(place, fault)
        elif ended.status:
            found.wrong.append(f"status {ended.status} though nothing happened")
            break
        if over(kind, place, ended):
            found.wrong += differences(undisturbed.left, remains(kind, place))
            break
    else:
        found.wrong.append(f"not over after {MOST} tries")
    if not found.wrong:
        shutil.rmtree(place)
    return found


def _drawn(source: random.Random, undisturbed: Reference, left: float) -> Fault:
    """A fault that falls into what is left to do."""
    seconds = undisturbed.seconds and undisturbed.seconds * (0.3 + 0.7 * left)
    return Fault.draw(source, undisturbed.calls * left + 30, seconds)


def _left(kind: str, place: Path) -> float:
    """The share of a run that its newest checkpoint leaves to do."""
    steps = [int(p.parent.name[5:]) for p in place.glob("runs/*/2*/checkpoints/step-*/DONE")]
    return 1 - max(steps, default=0) / STEPS


def following(bench: Bench, kind: str, place: Path) -> list[str]:
    """What a user types now: from the start where there is no run yet, else go on."""
    if kind == REPRODUCTION:
        return bench.start(kind, place)
    if kind == SWEEP:
        begun = sorted(place.glob("sweeps/*/2*/sweep.yaml"))
        return ["sweep", "--resume", str(begun[0].parent)] if begun else bench.start(kind, place)
    begun = runs(kind, place)
    return ["resume", str(begun[0])] if begun else bench.start(kind, place)


def over(kind: str, place: Path, ended: Ended) -> bool:
    """Whether everything has been trained."""
    if kind in (SWEEP, REPRODUCTION):
        return ended.status == 0
    return any(
        result(run).get("status") == "finished" and (run / "report.md").exists()
        for run in runs(kind, place)
    )


def runs(kind: str, place: Path) -> list[Path]:
    """Folders of runs, by their name."""
    pattern = {SWEEP: "sweeps/*/2*/*", REPRODUCTION: "runs/reproduce/*/*"}.get(kind, "runs/*/2*")
    return sorted(path.parent for path in place.glob(f"{pattern}/config.yaml"))


def result(run: Path) -> dict[str, Any]:
    path = run / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def remains(kind: str, place: Path) -> dict[str, Any]:
    """What must be equal: weights, optimizer, generators, metrics, artefacts; and no litter."""
    found: dict[str, Any] = {}
    for run in runs(kind, place):
        name = _variant(run) if kind == REPRODUCTION else run.name if kind == SWEEP else "run"
        found |= {f"{name}: {key}": value for key, value in _of(run).items()}
    return found


def _variant(run: Path) -> str:
    from omegaconf import OmegaConf

    return str(OmegaConf.load(run / "config.yaml").run.name)


def _of(run: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    last = run / "checkpoints" / "last"
    if not last.exists():
        return {"last": None}
    tensors = load_file(last / "adapter.safetensors")
    found: dict[str, Any] = {"last": last.resolve().name}
    found |= {f"weights {name}": _digest(tensor) for name, tensor in tensors.items()}
    for name in ("optimizer.pt", "participants.pt", "rng.pt"):
        values = torch.load(last / name, map_location="cpu", weights_only=True)
        values.pop("costs", None) if isinstance(values, dict) else None
        found |= {f"{name} {key}": value for key, value in _flat(values)}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]
    found |= {key: result(run).get(key) for key in FIGURES}
    for pattern in WHOLE:
        for file in [run / pattern, *(run / pattern).rglob("*")]:
            if file.is_file() and file.suffix != ".md":
                found[str(file.relative_to(run))] = _content(file)
    best = run / "checkpoints" / "best"
    found["best"] = best.resolve().name if best.is_symlink() else None
    found["litter"] = [str(p.relative_to(run)) for p in run.rglob(".*.*")]
    return found


def _content(file: Path) -> Any:
    """Of a configuration the values: libraries write sets, whose order belongs to the process."""
    if file.suffix != ".json":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    values = json.loads(file.read_text())
    return {k: sorted(v, key=str) if isinstance(v, list) else v for k, v in values.items()}


def _digest(tensor: Any) -> str:
    return hashlib.sha256(tensor.contiguous().view(-1).numpy().tobytes()).hexdigest()[:16]


def _flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        return [(key, _digest(value.detach().cpu()))]
    if isinstance(value, dict):
        return [one for k, inner in value.items() for one in _flat(inner, f"{key}.{k}")]
    if isinstance(value, list | tuple) and len(value) < 100:
        return [one for k, inner in enumerate(value) for one in _flat(inner, f"{key}.{k}")]
    return [(key, value)]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys under which two differ."""
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def _said_wrong(place: Path, fault: Fault) -> list[str]:
    """An error of the disk must be one message, never a traceback."""
    screen = (place / "screen").read_text(errors="replace")
    (place / "screen").rename(place / f"screen-{len(list(place.glob('screen*')))}")
    bad = ("Traceback", "please report it") if fault.what in ERRORS else ()
    return [f"{fault} showed {word!r}" for word in bad if word in screen]
