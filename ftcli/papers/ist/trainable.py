"""IST: the adapters of important layers are trained more often (arXiv 2410.11772)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli.core.callback import State
from ftcli.papers.ist.random import Rst
from ftcli.papers.ist.scaling import damp_adapters, find_scaled_layers
from ftcli.trainable.blockwise import StateOnSwitch
from ftcli.trainable.selection import Interval, count_share

if TYPE_CHECKING:
    from ftcli.core.run import Run


class Ist(Rst):
    """Importance-aware sparse tuning of any adapter with a scale.

    Each block has a score, initially 0; a high score means that damping its adapters did not raise the loss. Every
    `interval` steps the scores learn from `candidates` trials: adapters of a set of blocks, drawn
    with weights sigmoid(s), are damped and the loss on a batch of training data is measured. At
    every step the blocks that move are drawn with weights sigmoid(-s). A round of scoring changes
    neither the order of the data nor the run's random numbers.

    The sets of a round are drawn independently, so that one may occur twice: in 46 % of rounds with 4 blocks,
    in 4.8 % with 8 (3 candidates). The authors' code draws a repeated set again.

    Args:
        train_fraction: fraction of the blocks trained at a step, rounded down.
        damp_fraction: fraction of the blocks that a trial damps, rounded down.
        interval: steps between rounds of scoring; none before step 0.
        candidates: trials a round.
        score_lr: step size of the scores.
        damping: factor on the scale of a damped adapter.
        score_batch: rows (bins, where data.packing=bins) of a round.
    """

    def __init__(
        self,
        train_fraction: float = 0.25,
        damp_fraction: float = 0.5,
        interval: int = 10,
        candidates: int = 3,
        score_lr: float = 10.0,
        damping: float = 0.25,
        score_batch: int = 16,
        state_on_switch: StateOnSwitch = "keep",
        always_on: list[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(train_fraction, state_on_switch, always_on, seed)
        self.damp_fraction, self.trials, self.score_lr = damp_fraction, candidates, score_lr
        self.damping, self.score_batch = damping, score_batch
        self.scoring = Interval(steps=interval)
        self.scores, self.rounds = torch.zeros(0), 0

    def setup(self, run: Run) -> None:
        """Find the blocks and their adapters.

        Raises:
            UserError: the method has no adapters with a scale, or see `Rst.setup`.
        """
        super().setup(run)
        blocks = self.candidates.blocks
        find_scaled_layers(run.model, blocks)
        self.damp_count = count_share(len(blocks), self.damp_fraction, "trainable.damp_fraction")
        self.scores, self.rounds = torch.zeros(len(blocks), dtype=torch.float64), 0

    def choose(self, state: State) -> list[int]:
        """Update the scores where a round is due, then draw the blocks of this step."""
        if state.step > 0 and self.scoring.is_due(state):
            self.score(state)
        chosen = self.draws.draw_weighted(torch.sigmoid(-self.scores), self.count)
        return [self.candidates.blocks[i] for i in chosen.tolist()]

    def score(self, state: State) -> None:
        """Run one round: measure the loss with each damped set, and raise scores of sets with low loss."""
        sets = [
            self.draws.draw_weighted(torch.sigmoid(self.scores), self.damp_count)
            for _ in range(self.trials)
        ]
        losses = self._losses(state.run, sets)
        self.scores = update_scores(self.scores, sets, losses, self.score_lr)
        self.rounds += 1
        if state.run.dir is not None:
            state.run.dir.append_event(
                "layer_scores", step=state.step, losses=losses.tolist(), scores=self.scores.tolist()
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the scores, the number of rounds, and the state of the draws."""
        return super().state_dict() | {"scores": self.scores, "rounds": self.rounds}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super().load_state_dict(saved)
        self.scores, self.rounds = saved["scores"], saved["rounds"]

    def _losses(self, run: Run, sets: list[Tensor]) -> Tensor:
        """Return the loss [trials] of this round's batch with the adapters of each set of blocks damped, float64."""
        from ftcli.core.rng import random_state, set_random_state
        from ftcli.models.decoding import evaluation_mode

        batch, blocks = self._batch(run), self.candidates.blocks
        size = run.objective.denominator([batch])
        before, losses = random_state(), []
        with evaluation_mode(run) as model:
            for chosen in sets:
                with damp_adapters(model, [blocks[i] for i in chosen.tolist()], self.damping):
                    losses.append(run.objective.numerator(run.objective(model, batch)) / size)
        set_random_state(before)
        return torch.stack(losses).double().cpu()

    def _batch(self, run: Run) -> dict[str, Any]:
        """Return this round's batch of training rows, a function of seed and round alone."""
        seed = run.seed if self.seed is None else self.seed
        loader = run.data.loader(
            "train", run.tokenizer, batch_size=self.score_batch, seed=seed + 1, shuffle=True
        )
        epoch, place = divmod(self.rounds, len(loader))
        return loader.batch(loader.list_batch_indices(epoch)[place])


def update_scores(scores: Tensor, sets: list[Tensor], losses: Tensor, lr: float) -> Tensor:
    """Return the scores [L] after one round.

    s_i += lr * r_c * p_i (1 - p_i) for every set c that holds i, with p = sigmoid(s) before the
    round and rewards r_c = exp(-loss_c) minus their mean.

    Args:
        sets: indices of the damped blocks, one tensor a trial.
        losses: [trials], float64.
    """
    rewards = torch.exp(-losses)
    rewards = rewards - rewards.mean()
    p = torch.sigmoid(scores)
    slope, new = p * (1 - p), scores.clone()
    for chosen, reward in zip(sets, rewards, strict=True):
        new[chosen] += lr * reward * slope[chosen]
    return new
