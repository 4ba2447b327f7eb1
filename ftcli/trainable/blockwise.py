"""Base class of policies that train some blocks of the model at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ftcli.core.callback import State
from ftcli.core.errors import Problems, UserError
from ftcli.optimizers.state import drop, fetch, offload
from ftcli.trainable.base import Trainable, activate
from ftcli.trainable.blocks import Candidates
from ftcli.trainable.selection import Interval, Sampler

if TYPE_CHECKING:
    from ftcli.core.run import Run

#: Optimizer state of blocks that become inactive: stays, is dropped, or is moved to the CPU.
StateOnSwitch = Literal["keep", "drop", "offload"]


class Blockwise(Trainable, ABC):
    """Trains the blocks that `choose` returns, and the parameters that are always on.

    Every change of the active blocks is an event `active_blocks` of the run.

    Args:
        every: when blocks are chosen.
        state_on_switch: what happens to the optimizer state of blocks that become inactive. After `drop`
            state and step count start at 0 when the block is active again.
        always_on: patterns of the names of parameters that are always trained; null: all outside blocks.
        seed: seed of the random choices; null: the run's.
    """

    def __init__(
        self,
        every: Interval,
        state_on_switch: StateOnSwitch = "drop",
        always_on: list[str] | None = None,
        seed: int | None = None,
    ) -> None:
        self.every, self.state_on_switch = every, state_on_switch
        self.always_on, self.seed = always_on, seed
        self.active: list[int] = []
        self._applied: list[int] | None = None

    def setup(self, run: Run) -> None:
        """Sort the parameters that the method trains into blocks.

        Raises:
            UserError: there are several processes, no block to choose from, or a pattern without a match.
        """
        self._refuse_processes(run)
        self.candidates = Candidates.from_model(run.model)
        self.draws = Sampler(run.seed if self.seed is None else self.seed)
        self.active, self._applied = [], None
        patterns = self.always_on
        if patterns is None:
            self._always = {id(p) for _, p in self.candidates.outside}
            return
        names = [name for name, _ in self.candidates]
        missed = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
        Problems.raise_if_any([_no_match(pattern, names) for pattern in missed])
        self._always = {
            id(p) for name, p in self.candidates if any(fnmatchcase(name, x) for x in patterns)
        }

    @abstractmethod
    def choose(self, state: State) -> list[int]:
        """Return the numbers of the blocks that are trained from this step on, ascending."""

    def before_step(self, state: State) -> None:
        """Choose blocks when due, and apply a choice that is not applied yet, such as that of a checkpoint."""
        if self.every.is_due(state):
            self.active = self.choose(state)
        if self.active != self._applied:
            self._switch(state)

    def on_train_end(self, state: State) -> None:
        """Enable all parameters that the method trains."""
        activate([p for _, p in self.candidates], [])
        self._applied = None

    def state_dict(self) -> dict[str, Any]:
        """Return the active blocks and the state of the generator."""
        return {"active": self.active, **self.draws.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step applies it."""
        self.active, self._applied = list(saved["active"]), None
        self.draws.load_state_dict(saved)

    def _switch(self, state: State) -> None:
        on, off = self.split()
        activate(on, off)
        optimizer = state.run.optimizer_builder.optimizer
        if self.state_on_switch == "drop":
            drop(optimizer, off)
        elif self.state_on_switch == "offload":
            offload(optimizer, off)
            fetch(optimizer, on)
        self._applied = list(self.active)
        if state.run.dir is not None:
            state.run.dir.append_event("active_blocks", step=state.step, blocks=self.active)

    def split(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters that are trained with the active blocks, and those that are not."""
        inside = {id(p) for block in self.active for _, p in self.candidates.inside[block]}
        moving = inside | self._always
        every = [p for _, p in self.candidates]
        return [p for p in every if id(p) in moving], [p for p in every if id(p) not in moving]

    def _refuse_processes(self, run: Run) -> None:
        count = run.accelerator.num_processes
        if count > 1:
            raise UserError(
                f"{type(self).__name__} changes which parameters have gradients, and {count} "
                "processes reduce gradients in groups that are fixed at the start.",
                where="trainable",
                fix="one process: ftcli train without -p",
            )


def _no_match(pattern: str, names: list[str]) -> UserError:
    return UserError(
        f"'{pattern}' matches 0 of the {len(names)} parameters that the method trains "
        f"(they are called like {names[-1]!r}).",
        where="trainable.always_on",
    )
