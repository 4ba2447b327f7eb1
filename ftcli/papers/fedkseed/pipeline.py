"""FedKSeed: the model is its start and one scalar a candidate seed, and only scalars travel."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftcli.core.errors import UserError
from ftcli.papers.fedkseed.optimizer import KSeed
from ftcli.pipelines.federated.base import Federated
from ftcli.pipelines.federated.shared import Shared

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run
    from ftcli.trainer.loop import Loop

#: What a client sends of a step: candidate uint16, slope float32, little-endian. 6 bytes.
STEP = struct.Struct("<Hf")
FLOATS = np.dtype("<f4")
LARGEST = 1000.0  # slopes count in the scores up to this size
FILE = "sums.bin"


@dataclass
class FedKSeed(Federated):
    """Federated zeroth-order training by K seeds (Qin et al. 2023, arXiv 2312.06353).

    The server keeps A in R^K. A round sends A (4 K bytes) to its clients; each rebuilds
    w(A) = w_0 - lr sum_j A_j z(s_j), takes `local_steps` steps along candidates j, and sends the
    pairs (j, g) (6 bytes a step). The server adds sum_i c_i sum_{steps of i at j} g to A_j, after
    which w(A) is exactly the mean of the clients' models with weights c_i.

    `biased` (FedKSeed-Pro): the server keeps for each candidate the mean |g| seen so far, a 0 to
    begin with, each cut at 1000; scaled to [0, 1] over the candidates, their softmax is the
    probability that a client draws it, sent with A for 4 K bytes more.
    """

    biased: bool = False  # draw candidates by the size of their slopes so far (FedKSeed-Pro)

    def shared(self, loop: Loop) -> Scalars:
        """The scalars, over the model as it is now."""
        return Scalars(loop, self.biased)

    def check(self, run: Run, loop: Loop) -> None:
        """Refuse what would make the sums of scalars another model than the clients'."""
        super().check(run, loop)
        optimizer: Any = loop.optimizer
        if not isinstance(optimizer, KSeed):
            raise UserError(
                f"{type(optimizer).__name__} does not step along a pool of seeds.",
                where="optimizer",
                fix="optimizer=kseed",
            )
        if len(optimizer.pool) > 2**16:
            raise UserError(
                f"{len(optimizer.pool)} candidates: the number of one travels as 16 bits.",
                where="optimizer.pool",
                fix="optimizer.pool=4096",
            )
        if any(group["weight_decay"] for group in optimizer.param_groups):
            raise UserError(
                "sums of scalars hold no weight decay.",
                where="optimizer.weight_decay",
                fix="optimizer.weight_decay=0",
            )
        steps = loop.state.max_steps
        if any(run.scheduler.factor(step, steps) != 1 for step in range(steps)):
            raise UserError(
                "sums of scalars stand for weights only as long as the learning rate is constant.",
                where="scheduler",
                fix="scheduler=constant",
            )


class Scalars(Shared):
    """Initial weights, and A.

    Attributes:
        sums: A, float32 [K].
        size, seen: sum of |g| of each candidate and how many there were, float64 [K].
    """

    def __init__(self, loop: Loop, biased: bool = False) -> None:
        super().__init__(loop)
        optimizer: Any = loop.optimizer
        self.biased, count = biased, len(optimizer.pool)
        self.start = [p.detach().clone() for p in loop.parameters]
        self.sums = np.zeros(count, FLOATS)
        self.size, self.seen = np.zeros(count), np.ones(count)
        self._taken: list[tuple[int, float]] = []
        self._rebuilt: tuple[bytes, list[torch.Tensor]] | None = None

    def broadcast(self) -> bytes:
        """A, and the probabilities where they are used."""
        drawn = self.probabilities().astype(FLOATS).tobytes() if self.biased else b""
        return self.sums.tobytes() + drawn

    @torch.no_grad()
    def load(self, body: bytes) -> None:
        """Rebuild w(A) from the initial weights; clients of one process and round share the work."""
        sums = body[: self.sums.nbytes]
        if self._rebuilt is None or self._rebuilt[0] != sums:
            self._rebuilt = None
            self._set(self.start)
            optimizer: Any = self.loop.optimizer
            optimizer.add(np.frombuffer(sums, FLOATS).tolist())
            self._rebuilt = (sums, [p.detach().clone() for p in self.loop.parameters])
        else:
            self._set(self._rebuilt[1])

    def begin(self, optimizer: Any, body: bytes) -> None:
        """Draw candidates as the server says."""
        self._taken = []
        drawn = np.frombuffer(body[self.sums.nbytes :], FLOATS)
        optimizer.probabilities = torch.tensor(drawn) if len(drawn) else None

    def after_step(self, state: State) -> None:
        """Note candidate and slope, unless the step was dropped."""
        optimizer: Any = state.run.optimizer.optimizer
        if optimizer.index is not None:
            self._taken.append((optimizer.index, optimizer.taken[0].slope))

    def reply(self) -> bytes:
        """The pairs of the local steps."""
        return b"".join(STEP.pack(*pair) for pair in self._taken)

    def absorb(self, replies: Sequence[tuple[float, bytes]]) -> None:
        """A <- A + sum_i c_i d_i, summed in float64; and the slopes' sizes for the scores."""
        total = self.sums.astype(np.float64)
        for weight, body in replies:
            for index, slope in STEP.iter_unpack(body):
                total[index] += weight * slope
                self.size[index] += min(abs(slope), LARGEST)
                self.seen[index] += 1
        self.sums = total.astype(FLOATS)

    def probabilities(self) -> np.ndarray:
        """Of each candidate, float64 [K]; equal where nothing tells them apart."""
        scores = self.size / self.seen
        width = scores.max() - scores.min()
        powers = np.exp((scores - scores.min()) / width if width > 0 else np.zeros_like(scores))
        return powers / powers.sum()

    def state_dict(self) -> dict[str, Any]:
        """All that the server knows beside the initial weights."""
        arrays: dict[str, np.ndarray] = {"sums": self.sums, "size": self.size, "seen": self.seen}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.sums, self.size, self.seen = (saved[k].numpy() for k in ("sums", "size", "seen"))

    def leave(self, folder: Path) -> None:
        """Write A: with the initial weights it is the trained model."""
        unfinished = folder / f".{FILE}"
        unfinished.write_bytes(self.sums.tobytes())
        unfinished.replace(folder / FILE)

    def _set(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.loop.parameters, values, strict=True):
                parameter.copy_(value)


def rebuild(folder: Path) -> Run:
    """The run of a folder with the weights that its scalars lead to, without data or a loss.

    Equal to the trained weights to the bit, on the kind of device that trained them.

    Raises:
        UserError: the run has no scalars.
    """
    from ftcli.config import load
    from ftcli.run.build import build_run

    if not (folder / FILE).exists():
        raise UserError(f"there is no {folder / FILE}.", fix="take a run of pipeline=fedkseed")
    run = build_run(dict(load(folder / "config.yaml").config) | {"logger": {}})
    named = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
    optimizer: Any = run.optimizer.build(named, run.accelerator.device)
    optimizer.add(np.frombuffer((folder / FILE).read_bytes(), FLOATS).tolist())
    return run
