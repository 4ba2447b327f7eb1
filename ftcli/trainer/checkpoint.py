"""Checkpoints: everything needed to go on as if nothing had happened, written whole or not at all."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ftcli.errors import UserError
from ftcli.run import atomic

if TYPE_CHECKING:
    from ftcli.run.run import Run
    from ftcli.trainer.loop import Loop

COUNTERS = ("step", "epoch", "batch", "tokens", "supervised", "best")


class Checkpoints:
    """The folder `checkpoints/` of a run.

    Each `step-000400/` holds what is trained (adapter.safetensors, adapter_config.json), the
    optimizer, every participant's own state, the random generators, and the position in the data.
    `last` and `best` are links. A folder without DONE is the remains of a crash and is ignored.

    Args:
        keep: how many of the newest are kept besides the best; at least 1.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, max(1, keep)

    def save(self, loop: Loop) -> Path:
        """Write a checkpoint of this moment; returns its folder."""
        name = f"step-{loop.state.step:06d}"
        target = self.folder / name
        with atomic.folder(target) as unfinished:
            write(unfinished, loop)
            (unfinished / "DONE").touch()
        atomic.link(self.folder / "last", name)
        self._retain()
        if loop.run.dir is not None:
            loop.run.dir.event("checkpoint", step=loop.state.step, path=name)
        return target

    def mark_best(self, path: Path) -> None:
        """Point `best` at a checkpoint."""
        atomic.link(self.folder / "best", path.name)
        self._retain()

    def finished(self) -> list[Path]:
        """All whole checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob("step-*/DONE"))

    def find(self, name: str) -> Path:
        """The checkpoint called `last`, `best` or `step-000400`.

        Raises:
            UserError: there is none of that name; the message names those there are.
        """
        whole = self.finished()
        chosen = whole[-1] if name == "last" and whole else (self.folder / name).resolve()
        if chosen not in [path.resolve() for path in whole] and chosen not in whole:
            names = ", ".join(path.name for path in whole) or "none"
            raise UserError(
                f"there is no checkpoint '{name}'; there is: {names}.", where=str(self.folder)
            )
        return chosen

    def _retain(self) -> None:
        """Remove all but the newest ones and the best, and what crashes have left."""
        whole = self.finished()
        best = (self.folder / "best").resolve()
        for path in whole[: -self.keep]:
            if path.resolve() != best:
                (path / "DONE").unlink()  # first, so that a crash in between leaves no half
                shutil.rmtree(path)
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


def write(folder: Path, loop: Loop) -> None:
    """Fill a folder with the state of the loop."""
    run, state = loop.run, loop.state
    run.optimizer.eval_mode()  # what is judged and loaded later; the optimizer keeps the other one
    save_weights(folder, run)
    run.optimizer.train_mode()
    torch.save(loop.optimizer.state_dict(), folder / "optimizer.pt")
    saved = {name: part.state_dict() for name, part in loop.participants.items()}
    torch.save({name: s for name, s in saved.items() if s}, folder / "participants.pt")
    torch.save(random_state(), folder / "rng.pt")
    position = {"epoch": state.epoch, "batch": state.batch, "fingerprint": loop.fingerprint}
    atomic.write_json(folder / "loader.json", position)
    counters = {name: getattr(state, name) for name in COUNTERS}
    counters["meter"] = loop.meter.state_dict()
    counters["lines"] = len(run.dir.metrics()) if run.dir else 0
    atomic.write_json(folder / "state.json", counters | {"config": run.config})


def save_weights(folder: Path, run: Run) -> None:
    """What the method trains, as safetensors; and how to read it."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in run.trained_state().items()}
    save_file(tensors, folder / "adapter.safetensors", metadata={"format": "pt"})
    atomic.write_json(folder / "adapter_config.json", run.method.describe())


def load_weights(folder: Path, run: Run) -> None:
    """Put the weights of a checkpoint into the run's model."""
    run.method.load_state(run.model, load_file(folder / "adapter.safetensors"))


def restore(folder: Path, loop: Loop) -> None:
    """Bring the loop to the moment of a checkpoint."""
    load_weights(folder, loop.run)
    loop.optimizer.load_state_dict(_load(folder / "optimizer.pt"))
    for name, saved in _load(folder / "participants.pt").items():
        loop.participants[name].load_state_dict(saved)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for name in COUNTERS:
        setattr(loop.state, name, state[name])
    loop.meter.load_state_dict(state["meter"])
    set_random_state(_load(folder / "rng.pt"))


def _load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def random_state() -> dict[str, Any]:
    """The generators of torch, CUDA, numpy and Python."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (
            kind,
            torch.from_numpy(np.array(keys).astype(np.int64)),
            position,
            has_gauss,
            gauss,
        ),
        "python": random.getstate(),
    }


def set_random_state(saved: dict[str, Any]) -> None:
    """Take back what `random_state` gave."""
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available() and len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["cuda"])
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))
