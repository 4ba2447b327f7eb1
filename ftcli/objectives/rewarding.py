"""What happens between the prompts of a step and the micro-batches that are learned: answers, rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli import rewards
from ftcli.core.errors import UserError
from ftcli.core.hooks import hooks_disabled
from ftcli.models.decoding import judging, read, stop_ids
from ftcli.objectives.advantages import advantages, group_std
from ftcli.objectives.reference import Reference
from ftcli.objectives.rollouts import Batch, Layout, Prompt, build_micro_batch, read_prompts
from ftcli.objectives.sampling import SampledAnswer, sample_answers
from ftcli.rewards import Answer

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.objectives.grpo import GRPO

SAMPLES = "rollouts.jsonl"  # of the folder samples/: a group of answers at every log


class RolloutBuilder:
    """Draws answers and judges them.

    Args:
        settings: the objective whose keys apply.

    Raises:
        UserError: no reward, an unknown one, or options that it does not take.
    """

    def __init__(self, settings: GRPO) -> None:
        self.settings = settings
        wanted = {name: value for name, value in settings.rewards.items() if value is not None}
        given = {name: _options(name, value) for name, value in wanted.items()}
        if not given:
            raise UserError(
                "answers are compared by no reward.",
                where="objective.rewards",
                fix=f"objective.rewards={{exact_match:1}}; there is {', '.join(rewards.available())}",
            )
        self.weights = {name: float(options.pop("weight", 1.0)) for name, options in given.items()}
        self.functions = {name: rewards.find(name, options) for name, options in given.items()}
        self.needs_rows = any(options.get("column") for options in given.values())
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._reference: Reference | None = None

    def setup(self, run: Any) -> None:
        """Find the rows that rewards look at, and the reference."""
        if self.needs_rows:
            self._rows = {one["origin"]: one["row"] for one in run.data.examples("train")}
        if self.settings.beta and run.config.get("init_from"):
            raise UserError(
                "the reference would be the model without the adapter that this run goes on with.",
                where="objective.beta",
                fix="handover=merge, or objective.beta=0",
            )
        if self.settings.beta:
            self._reference = Reference(run, self.settings.reference)

    def build(self, state: State, batches: Sequence[Batch]) -> list[Batch]:
        """Micro-batches with answers, advantages and, where they are needed, old log-probabilities."""
        run, s = state.run, self.settings
        stops = stop_ids(run.tokenizer, run.model)
        prompts = [read_prompts(batch, run.tokenizer, stops) for batch in batches]
        drawn = self._sample(run, prompts)
        answers = [self._read(run, p, d, stops) for p, d in zip(prompts, drawn, strict=True)]
        table = self.scores([one for some in answers for one in some])
        weights = torch.tensor(list(self.weights.values()))
        found = advantages(
            table, weights, s.num_generations, s.scale_rewards, s.multi_objective_aggregation,
            lambda x: _over_ranks(run, x),
        )  # fmt: skip
        sizes = [len(some) for some in answers]
        made = [
            self._micro_batch(batch, p, d, a, t)
            for batch, p, d, a, t in zip(
                batches, prompts, drawn, found.split(sizes), table.split(sizes), strict=True
            )
        ]
        self._compare(run, made)
        if state.step % run.trainer.log_every == 0:
            self._keep(state, answers[0], table, found)
        return made

    def scores(self, answers: Sequence[Answer]) -> Tensor:
        """Rewards [A, K] float32; NaN where a reward has nothing to say.

        Raises:
            UserError: a reward gave another number of scores than there are answers.
        """
        columns = []
        for name, function in self.functions.items():
            scores = list(function(answers))
            if len(scores) != len(answers):
                raise UserError(
                    f"{name} gave {len(scores)} scores for {len(answers)} answers.",
                    where=f"objective.rewards.{name}",
                )
            columns.append([float("nan") if score is None else float(score) for score in scores])
        return torch.tensor(columns).T.contiguous()

    def _sample(
        self, run: Any, prompts: Sequence[Sequence[Prompt]]
    ) -> list[list[list[SampledAnswer]]]:
        """Answers to all prompts of the step; together, so that fewer batches are decoded."""
        s = self.settings
        with judging(run) as model, hooks_disabled():
            every = sample_answers(
                model, run.tokenizer, [p.ids for some in prompts for p in some], s.num_generations,
                s.max_new_tokens, s.generation_batch_size,
                temperature=s.temperature, top_p=s.top_p, top_k=s.top_k,
            )  # fmt: skip
        found, start = [], 0
        for some in prompts:
            found.append(every[start : start + len(some)])
            start += len(some)
        return found

    def _read(
        self,
        run: Any,
        prompts: Sequence[Prompt],
        drawn: Sequence[Sequence[SampledAnswer]],
        stops: list[int],
    ) -> list[Answer]:
        tokenizer = run.tokenizer
        return [
            Answer(
                read(one.ids, stops, tokenizer), one.ids, one.truncated, prompt.reference,
                self._rows[run.locate_row(prompt.row)] if self.needs_rows else {},
                str(tokenizer.decode(prompt.ids, skip_special_tokens=True)),
            )
            for prompt, some in zip(prompts, drawn, strict=True)
            for one in some
        ]  # fmt: skip

    def _micro_batch(
        self,
        batch: Batch,
        prompts: Sequence[Prompt],
        drawn: Sequence[Sequence[SampledAnswer]],
        found: Tensor,
        table: Tensor,
    ) -> Batch:
        s = self.settings
        layout: Layout = "padded"
        reading = {"reading": batch["reading"]} if "reading" in batch else {}
        if "lengths" in batch:
            layout = "shared" if s.share_prompts and not reading else "packed"
        made = build_micro_batch(prompts, drawn, layout, keep_truncated=not s.mask_truncated)
        return made | reading | {"advantages": found, "figures": self._figures(drawn, table)}

    def _figures(self, drawn: Sequence[Sequence[SampledAnswer]], table: Tensor) -> dict[str, float]:
        weights = torch.tensor(list(self.weights.values()))
        deviations = group_std(table, weights, self.settings.num_generations)
        every = [one for some in drawn for one in some]
        figures = {
            "reward": float((table * weights).nansum(1).mean()),
            "reward_std": float(deviations.mean()),
            "equal_groups": float((deviations < 1e-8).float().mean()),
            "answer_tokens": sum(len(one.ids) for one in every) / len(every),
            "truncated": sum(one.truncated for one in every) / len(every),
        }
        means = table.nanmean(0).tolist()
        named = {f"reward.{n}": m for n, m in zip(self.functions, means, strict=True) if m == m}
        return figures | named

    def _compare(self, run: Any, made: Sequence[Batch]) -> None:
        """Log-probabilities of the model as it wrote, and of the reference; the bonus's share."""
        s = self.settings
        with judging(run) as model, hooks_disabled():
            for batch in made:
                if s.num_iterations > 1:
                    batch["old"] = s.token_log_probs(model, batch)[0].cpu()
        if self._reference is not None:
            with self._reference.model() as model, run.autocast():
                for batch in made:
                    batch["reference"] = s.token_log_probs(model, batch)[0].cpu()
        if s.entropy_coef:
            whole = torch.tensor([s.denominator(made), len(made)], dtype=torch.float64)
            total, count = _over_ranks(run, whole).tolist()
            for batch in made:
                batch["share"] = total / count

    def _keep(self, state: State, answers: Sequence[Answer], table: Tensor, found: Tensor) -> None:
        """The answers to one prompt with their rewards, so that what rewards do can be read."""
        run = state.run
        if run.dir is None or not run.accelerator.is_main_process:
            return
        lines = []
        for answer, scores, advantage in zip(
            answers[: self.settings.num_generations], table.tolist(), found.tolist(), strict=False
        ):
            given = {n: v for n, v in zip(self.functions, scores, strict=True) if v == v}
            line = {"step": state.step, "prompt": answer.prompt, "answer": answer.text}
            line |= {"reference": answer.reference, "rewards": given, "advantage": advantage}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        path = run.dir.path / "samples" / SAMPLES
        path.parent.mkdir(exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            stream.writelines(lines)


def _options(name: str, value: Any) -> dict[str, Any]:
    """Weight and options of a reward."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"weight": value}
    raise UserError(
        f"{value!r} is no weight.",
        where=f"objective.rewards.{name}",
        fix=f"objective.rewards.{name}=1, or {{weight: 1}} with its options",
    )


def _over_ranks(run: Any, value: Tensor) -> Tensor:
    """Sum over all ranks."""
    accelerator = run.accelerator
    if accelerator.num_processes == 1:
        return value
    return accelerator.reduce(value.to(accelerator.device)).cpu()
