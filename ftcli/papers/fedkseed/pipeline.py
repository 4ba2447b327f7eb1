"""FedKSeed: the model is its initial weights and one scalar for each candidate seed; scalars are sent."""

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
from ftcli.pipelines.federated.shared_model import SharedModel

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run
    from ftcli.trainer.context import TrainingContext

#: A step in a client's reply: candidate uint16, slope float32, little-endian; 6 bytes.
STEP = struct.Struct("<Hf")
FLOATS = np.dtype("<f4")
MAX_SLOPE = 1000.0  # |slope| is clipped to it in the scores of candidates
FILE = "sums.bin"


@dataclass
class FedKSeed(Federated):
    """Federated zeroth-order training by K seeds (Qin et al. 2023, arXiv 2312.06353).

    The server keeps A in R^K. A round sends A (4 K bytes) to its clients; each rebuilds
    w(A) = w_0 - lr sum_j A_j z(s_j), takes `local_steps` steps along candidates j, and sends the
    pairs (j, g) (6 bytes a step). The server adds sum_i c_i sum_{steps of i at j} g to A_j, after
    which w(A) is exactly the mean of the clients' models with weights c_i.

    `biased` (FedKSeed-Pro): the server keeps for each candidate the mean of a first 0 and of every |g|
    so far, each clipped to 1000. Scaled to [0, 1] over the candidates, the softmax of these means is the
    probability that a client draws a candidate; it is sent with A, in 4 K further bytes.
    """

    biased: bool = False  # draw candidates by the size of their slopes so far (FedKSeed-Pro)

    def build_shared_model(self, context: TrainingContext) -> Scalars:
        """Return the scalars, with the model's current weights as the initial ones."""
        return Scalars(context, self.biased)

    def check(self, run: Run, context: TrainingContext) -> None:
        """Refuse settings with which the sums of scalars are not the mean of the clients' models.

        Raises:
            UserError: the optimizer is not KSeed or has more than 2^16 candidates, there is weight
                decay, or the learning rate is not constant; see also `Federated.check`.
        """
        super().check(run, context)
        optimizer: Any = context.optimizer
        if not isinstance(optimizer, KSeed):
            raise UserError(
                f"pipeline=fedkseed needs steps along a pool of seeds, which "
                f"{type(optimizer).__name__} does not take.",
                where="optimizer",
                fix="optimizer=kseed",
            )
        if len(optimizer.pool) > 2**16:
            raise UserError(
                f"{len(optimizer.pool)} candidates: their numbers are sent as 16 bits, 65536 at most.",
                where="optimizer.pool",
                fix="optimizer.pool=4096",
            )
        if any(group["weight_decay"] for group in optimizer.param_groups):
            raise UserError(
                "pipeline=fedkseed allows no weight decay: sums of scalars cannot represent it.",
                where="optimizer.weight_decay",
                fix="optimizer.weight_decay=0",
            )
        steps = context.state.max_steps
        if any(run.scheduler.factor(step, steps) != 1 for step in range(steps)):
            raise UserError(
                "sums of scalars represent the weights only if the learning rate is constant.",
                where="scheduler",
                fix="scheduler=constant",
            )


class Scalars(SharedModel):
    """Initial weights and the vector A of sums of slopes.

    Attributes:
        sums: A, float32 [K].
        size, seen: for each candidate the sum of |g| and their number plus one, float64 [K].
    """

    def __init__(self, context: TrainingContext, biased: bool = False) -> None:
        super().__init__(context)
        optimizer: Any = context.optimizer
        self.biased, count = biased, len(optimizer.pool)
        self.start = [p.detach().clone() for p in context.parameters]
        self.sums = np.zeros(count, FLOATS)
        self.size, self.seen = np.zeros(count), np.ones(count)
        self._local_steps: list[tuple[int, float]] = []
        self._rebuilt: tuple[bytes, list[torch.Tensor]] | None = None

    def broadcast(self) -> bytes:
        """Return A as bytes, followed by the probabilities if `biased`."""
        probabilities = self.probabilities().astype(FLOATS).tobytes() if self.biased else b""
        return self.sums.tobytes() + probabilities

    @torch.no_grad()
    def load(self, body: bytes) -> None:
        """Rebuild w(A) from the initial weights, once for all clients of a process in a round."""
        sums = body[: self.sums.nbytes]
        if self._rebuilt is None or self._rebuilt[0] != sums:
            self._rebuilt = None
            self._set_parameters(self.start)
            optimizer: Any = self.context.optimizer
            optimizer.apply_sums(np.frombuffer(sums, FLOATS).tolist())
            self._rebuilt = (sums, [p.detach().clone() for p in self.context.parameters])
        else:
            self._set_parameters(self._rebuilt[1])

    def begin_client(self, optimizer: Any, body: bytes) -> None:
        """Start a client's steps with the server's probabilities of the candidates."""
        self._local_steps = []
        probabilities = np.frombuffer(body[self.sums.nbytes :], FLOATS)
        optimizer.probabilities = torch.tensor(probabilities) if len(probabilities) else None

    def after_step(self, state: State) -> None:
        """Record candidate and slope, unless the step was dropped."""
        optimizer: Any = state.run.optimizer_builder.optimizer
        if optimizer.index is not None:
            self._local_steps.append((optimizer.index, optimizer.last_directions[0].slope))

    def build_reply(self) -> bytes:
        """Return the pairs (candidate, slope) of the local steps as bytes."""
        return b"".join(STEP.pack(*pair) for pair in self._local_steps)

    def aggregate(self, replies: Sequence[tuple[float, bytes]]) -> None:
        """Add sum_i c_i d_i to A, summed in float64, and |slope| to the scores of the candidates."""
        total = self.sums.astype(np.float64)
        for weight, body in replies:
            for index, slope in STEP.iter_unpack(body):
                total[index] += weight * slope
                self.size[index] += min(abs(slope), MAX_SLOPE)
                self.seen[index] += 1
        self.sums = total.astype(FLOATS)

    def probabilities(self) -> np.ndarray:
        """Return the probability of each candidate, float64 [K]; uniform if all scores are equal."""
        scores = self.size / self.seen
        spread = scores.max() - scores.min()
        powers = np.exp((scores - scores.min()) / spread if spread > 0 else np.zeros_like(scores))
        return powers / powers.sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the server's state beside the initial weights: sums, sizes and counts."""
        arrays: dict[str, np.ndarray] = {"sums": self.sums, "size": self.size, "seen": self.seen}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self.sums, self.size, self.seen = (saved[k].numpy() for k in ("sums", "size", "seen"))

    def write_files(self, folder: Path) -> None:
        """Write A to `sums.bin`; with the initial weights it determines the trained model."""
        unfinished = folder / f".{FILE}"
        unfinished.write_bytes(self.sums.tobytes())
        unfinished.replace(folder / FILE)

    def _set_parameters(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.context.parameters, values, strict=True):
                parameter.copy_(value)


def rebuild_from_sums(folder: Path) -> Run:
    """Return the run of a folder with weights rebuilt from its scalars, without data or a loss.

    They are equal to the trained weights to the bit, on the kind of device that trained them.

    Raises:
        UserError: the folder has no `sums.bin`.
    """
    from ftcli.config import load
    from ftcli.run.build import build_run

    if not (folder / FILE).exists():
        raise UserError(
            f"there is no {folder / FILE}.", fix="give the folder of a run with pipeline=fedkseed"
        )
    run = build_run(dict(load(folder / "config.yaml").config) | {"logger": {}})
    run.load_model()
    named = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
    optimizer: Any = run.optimizer_builder.build(named, run.accelerator.device)
    optimizer.apply_sums(np.frombuffer((folder / FILE).read_bytes(), FLOATS).tolist())
    return run
