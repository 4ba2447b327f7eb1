"""Checkpoints: the complete state of a run, written atomically, from which training resumes to the bit."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ftcli.core import atomic, disk
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.trainer import manifest
from ftcli.trainer.checkpoint_io import write_checkpoint_files
from ftcli.trainer.manifest import step_of
from ftcli.trainer.shards import PATTERN, write_shards

if TYPE_CHECKING:
    from ftcli.trainer.context import TrainingContext

logger = logging.getLogger("ftcli")
LATER = ".later-"  # prefix of checkpoints whose steps a resumed run repeats
SMALL_FILES = (
    1 << 20
)  # allowance in bytes for what is not a tensor: configuration, counters, random generators


class Checkpoints:
    """The folder `checkpoints/` of a run.

    Each `step-000400/` holds what is trained (adapter.safetensors, adapter_config.json), the
    optimizer, the state of every callback, the random generators, and the position in the data.
    `last` and `best` are links. DONE, written last, lists bytes and SHA-256 of every file; a folder
    without it was left by a crash and is ignored.

    Args:
        keep: number of newest checkpoints that are kept besides the best; at least 1.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, max(1, keep)
        self.run_dir = RunDir(folder.parent)
        self._warned = False

    def prepare_folder(self, context: TrainingContext, checkpoint: Path | None) -> None:
        """Return the folder to its state when `checkpoint` was written, and check that a checkpoint fits on the disk.

        Checkpoints of later steps belong to steps that will be repeated. They are renamed, and removed
        when the first new checkpoint is complete.

        Raises:
            UserError: the disk has no space for one checkpoint.
        """
        self.folder.mkdir(exist_ok=True)
        atomic.remove_unfinished(self.folder)
        atomic.remove_unfinished(self.run_dir.path)
        if checkpoint is not None and checkpoint.parent.resolve() == self.folder.resolve():
            for path in self._sort_by_step(self.folder.glob("step-*")):
                if step_of(path) > step_of(checkpoint):
                    shutil.rmtree(self.folder / f"{LATER}{path.name}", ignore_errors=True)
                    path.rename(self.folder / f"{LATER}{path.name}")
            self._restore_links(checkpoint)
        try:
            disk.require_space(self.folder, self._estimate_bytes(context))
        except disk.NotEnoughSpace as error:
            raise UserError(
                f"no checkpoint could be saved: {disk.describe_fault(error)}.",
                where=str(self.folder),
                fix="free space, or run.dir=FOLDER on another disk",
            ) from error

    def save(
        self, context: TrainingContext, best: bool = False, required: bool = True
    ) -> Path | None:
        """Write a checkpoint of the current step; return its folder, or None on ranks other than the first.

        Where weights are sharded (`trainer.strategy=fsdp2`) every rank writes its parts, and must call this.

        Args:
            best: also point the link `best` at it.
            required: raise where it cannot be written, because no later checkpoint will replace it.
                Otherwise a failed write is a warning, and None is returned.

        Raises:
            UserError: the disk refused a required checkpoint; earlier ones are intact.
        """
        name = f"step-{context.state.step:06d}"
        target, main = self.folder / name, context.accelerator.is_main_process
        try:
            if context.saves_shards:
                write_shards(self._parts_folder(name), context)
            if main:
                self._write_folder(target, context, best)
        except Exception as error:
            if not main and required:
                raise
            if main:
                shutil.rmtree(self._parts_folder(name), ignore_errors=True)
                self._report_failure(error, name, required)
            return None
        if not main:
            return None
        try:
            atomic.write_link(self.folder / "last", name)
            if best:
                atomic.write_link(self.folder / "best", name)
            self._remove_old(target)
            self.run_dir.append_event("checkpoint", step=context.state.step, path=name)
        except OSError as error:
            what = f"{name} was saved; updating links or removing old checkpoints failed"
            failure = disk.run_error(error, self.run_dir.path, what)
            if required and failure:
                raise failure from error  # `prepare_folder` repairs the links on resume
            logger.warning(f"{name} is saved, but {disk.describe_fault(error) or error}.")
        self._warn_of_full_disk(manifest.total_bytes(target))
        return target

    def _parts_folder(self, name: str) -> Path:
        """Return the folder to which the ranks write their parts before they belong to a checkpoint."""
        return self.folder / f".{name}-parts{atomic.UNFINISHED}"

    def _write_folder(self, target: Path, context: TrainingContext, best: bool) -> None:
        parts = self._parts_folder(target.name)
        disk.require_space(
            self.folder, 0 if context.saves_shards else self._estimate_bytes(context)
        )
        with atomic.write_folder(target) as unfinished:
            for part in parts.glob(PATTERN):
                part.rename(unfinished / part.name)
            write_checkpoint_files(unfinished, context, best)
            manifest.write_manifest(unfinished)
        shutil.rmtree(parts, ignore_errors=True)

    def list_complete(self) -> list[Path]:
        """Return all complete checkpoints, oldest first."""
        return self._sort_by_step(
            path.parent for path in self.folder.glob(f"step-*/{manifest.DONE}")
        )

    def find(
        self, name: str, verify_files: Collection[str] | None = None, fall_back: bool = False
    ) -> Path:
        """Return the checkpoint called `last`, `best` or `step-000400` after checking it for damage.

        Args:
            verify_files: the files whose content is checked; see `manifest.find_damage`.
            fall_back: in place of a damaged `last`, return the newest undamaged checkpoint.

        Raises:
            UserError: there is no such checkpoint, or it is damaged; the message lists the others.
        """
        whole = self.list_complete()
        meant = whole[-1] if name == "last" and whole else self.folder / name
        chosen = next((path for path in whole if path.resolve() == meant.resolve()), None)
        if chosen is None:
            names = ", ".join(path.name for path in whole) or "none"
            raise UserError(
                f"there is no checkpoint '{name}'; there is: {names}.",
                where=str(self.folder),
                fix=f"--checkpoint {whole[-1].name}"
                if whole
                else f"ftcli resume {self.run_dir.path}",
            )
        wrong = manifest.find_damage(chosen, verify_files)
        if wrong is None:
            return chosen
        self._record_event("damaged_checkpoint", path=chosen.name, problem=wrong)
        others = [
            p for p in whole if p.name != chosen.name and not manifest.find_damage(p, verify_files)
        ]
        if fall_back and name == "last" and others:
            logger.warning(f"{chosen} is damaged ({wrong}); going on from {others[-1].name}.")
            return others[-1]
        good = ", ".join(path.name for path in others)
        raise UserError(
            f"the checkpoint {chosen.name} is damaged: {wrong}.",
            where=str(chosen),
            fix=f"--checkpoint {others[-1].name} (undamaged: {good})"
            if others
            else self._restart_command,
        )

    @property
    def _restart_command(self) -> str:
        return f"ftcli train {self.run_dir.path}/config.yaml"

    def _sort_by_step(self, paths: Iterable[Path]) -> list[Path]:
        return sorted((path for path in paths if path.name[5:].isdigit()), key=step_of)

    def _restore_links(self, checkpoint: Path) -> None:
        """Point `last` and `best` where a crash just after the checkpoint may have left them outdated."""
        atomic.write_link(self.folder / "last", checkpoint.name)
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        best = self.folder / "best"
        if state.get("is_best"):
            atomic.write_link(best, checkpoint.name)
        elif best.is_symlink() and not best.exists():
            best.unlink()

    def _estimate_bytes(self, context: TrainingContext) -> int:
        """Return the bytes to reserve for a checkpoint: the larger of its tensors and the previous one, plus 5 %."""
        state = context.optimizer.state.values()
        kept = [*state, *(callback.state_dict() for callback in context.callbacks.values())]
        tensors = [
            *context.run.get_trained_tensors().values(),
            *(t for s in kept for t in _iterate_tensors(s)),
        ]
        sizes = [sum(t.numel() * t.element_size() for t in tensors)]
        sizes += [manifest.total_bytes(path) for path in self.list_complete()[-1:]]
        return int(max(sizes) * 1.05) + SMALL_FILES

    def _report_failure(self, error: Exception, name: str, required: bool) -> None:
        """Warn that a checkpoint could not be written; raise if it was required or the disk is not the cause."""
        why = disk.describe_fault(error)
        if why is None:
            raise error
        self._record_event("checkpoint_refused", path=name, problem=why)
        if required:
            lost = f"{name} was not saved"
            raise disk.run_error(error, self.run_dir.path, lost) or error from error
        logger.warning(f"{name} was not saved: {why}. Training goes on.")

    def _warn_of_full_disk(self, size: int) -> None:
        """Warn once where the checkpoints that are kept will not all fit on the disk."""
        coming = (
            self.keep + 2 - len(self.list_complete())
        )  # plus the best, and the new one before an old one is removed
        free = disk.free_bytes(self.folder)
        if coming * size > free and not self._warned:
            self._warned = True
            more = f"{coming} more of {disk.format_bytes(size)}, {disk.format_bytes(free)} are free"
            logger.warning(f"{self.folder} will hold {more}: later checkpoints may be left out.")

    def _remove_old(self, newest: Path) -> None:
        """Remove all but the `keep` newest checkpoints and the best, if `newest` is undamaged."""
        wrong = manifest.find_damage(newest, verify_files=())
        if wrong is not None:
            self._record_event("damaged_checkpoint", path=newest.name, problem=wrong)
            logger.warning(f"{newest} is damaged ({wrong}); older checkpoints are kept.")
            return
        best = (self.folder / "best").resolve().name
        for path in self.list_complete()[: -self.keep]:
            if path.name not in (best, newest.name):
                (
                    path / manifest.DONE
                ).unlink()  # first, so that a crash leaves no incomplete folder that counts
                shutil.rmtree(path)
        for path in self.folder.glob(f"{LATER}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _record_event(self, kind: str, **fields: Any) -> None:
        with suppress(OSError):  # a full disk is reported on the screen instead
            self.run_dir.append_event(kind, **fields)


def open_checkpoints(
    context: TrainingContext, keep: int, checkpoint: Path | None = None
) -> Checkpoints | None:
    """Return the checkpoints of a training, ready for the first save; None for a run without a directory."""
    if context.run.dir is None:
        return None
    checkpoints = Checkpoints(context.run.dir.checkpoints, keep)
    if context.accelerator.is_main_process:
        checkpoints.prepare_folder(context, checkpoint)
    return checkpoints


def _iterate_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _iterate_tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _iterate_tensors(inner)
