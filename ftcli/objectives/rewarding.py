"""Micro-batches of sampled answers with their rewards, built from the prompts of a step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli import rewards
from ftcli.core.errors import UserError
from ftcli.core.hooks import hooks_disabled
from ftcli.models.decoding import decode_answer, evaluation_mode, find_stop_ids
from ftcli.objectives.advantages import compute_advantages, group_std
from ftcli.objectives.reference import Reference
from ftcli.objectives.rollouts import Batch, Layout, Prompt, build_micro_batch, read_prompts
from ftcli.objectives.sampling import SampledAnswer, sample_answers
from ftcli.rewards import Answer

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run
    from ftcli.objectives.grpo import GRPO

SAMPLES = "rollouts.jsonl"  # in samples/: the answers to one prompt at every logged step


class RolloutBuilder:
    """Samples answers, computes their rewards, and builds micro-batches of both.

    Args:
        settings: the objective whose options apply.

    Raises:
        UserError: there is no reward, an unknown one, or one with unknown options.
    """

    def __init__(self, settings: GRPO) -> None:
        self.settings = settings
        wanted = {name: value for name, value in settings.rewards.items() if value is not None}
        by_name = {name: _options(name, value) for name, value in wanted.items()}
        if not by_name:
            raise UserError(
                "there is no reward to compare answers by.",
                where="objective.rewards",
                fix=f"objective.rewards={{exact_match:1}}; rewards: {', '.join(rewards.list_rewards())}",
            )
        self.weights = {
            name: float(options.pop("weight", 1.0)) for name, options in by_name.items()
        }
        self.functions = {
            name: rewards.find_reward(name, options) for name, options in by_name.items()
        }
        self.needs_rows = any(options.get("column") for options in by_name.values())
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._reference: Reference | None = None

    def setup(self, run: Run) -> None:
        """Load the rows that rewards read, and create the reference.

        Raises:
            UserError: a reference is needed, and the run continues an adapter of another run.
        """
        if self.needs_rows:
            self._rows = {
                example["origin"]: example["row"] for example in run.data.examples("train")
            }
        if self.settings.beta and run.config.get("init_from"):
            raise UserError(
                "the reference would lack the adapter that this run continues.",
                where="objective.beta",
                fix="handover=merge, or objective.beta=0",
            )
        if self.settings.beta:
            self._reference = Reference(run, self.settings.reference)

    def build(self, state: State, batches: Sequence[Batch]) -> list[Batch]:
        """Return micro-batches with answers, advantages and, where needed, old log-probabilities."""
        run, s = state.run, self.settings
        stops = find_stop_ids(run.tokenizer, run.model)
        prompts = [read_prompts(batch, run.tokenizer, stops) for batch in batches]
        drawn = self._sample(run, prompts)
        answers = [self._read(run, p, d, stops) for p, d in zip(prompts, drawn, strict=True)]
        table = self.scores([answer for group in answers for answer in group])
        weights = torch.tensor(list(self.weights.values()))
        values = compute_advantages(
            table, weights, s.num_generations, s.scale_rewards, s.multi_objective_aggregation,
            lambda x: _over_ranks(run, x),
        )  # fmt: skip
        sizes = [len(group) for group in answers]
        micro_batches = [
            self._micro_batch(batch, p, d, a, t)
            for batch, p, d, a, t in zip(
                batches, prompts, drawn, values.split(sizes), table.split(sizes), strict=True
            )
        ]
        self._add_log_probs(run, micro_batches)
        if state.step % run.trainer.log_every == 0:
            self._write_samples(state, answers[0], table, values)
        return micro_batches

    def scores(self, answers: Sequence[Answer]) -> Tensor:
        """Return rewards [A, K] float32; NaN where a reward does not apply.

        Raises:
            UserError: a reward returned another number of scores than there are answers.
        """
        columns = []
        for name, function in self.functions.items():
            scores = list(function(answers))
            if len(scores) != len(answers):
                raise UserError(
                    f"the reward {name} returned {len(scores)} scores for {len(answers)} answers.",
                    where=f"objective.rewards.{name}",
                )
            columns.append([float("nan") if score is None else float(score) for score in scores])
        return torch.tensor(columns).T.contiguous()

    def _sample(
        self, run: Run, prompts: Sequence[Sequence[Prompt]]
    ) -> list[list[list[SampledAnswer]]]:
        """Sample answers to all prompts of the step together, so that fewer batches are decoded."""
        s = self.settings
        with evaluation_mode(run) as model, hooks_disabled():
            answers = sample_answers(
                model, run.tokenizer, [p.ids for batch in prompts for p in batch], s.num_generations,
                s.max_new_tokens, s.generation_batch_size,
                temperature=s.temperature, top_p=s.top_p, top_k=s.top_k,
            )  # fmt: skip
        by_batch, start = [], 0
        for batch in prompts:
            by_batch.append(answers[start : start + len(batch)])
            start += len(batch)
        return by_batch

    def _read(
        self,
        run: Run,
        prompts: Sequence[Prompt],
        drawn: Sequence[Sequence[SampledAnswer]],
        stops: list[int],
    ) -> list[Answer]:
        tokenizer = run.tokenizer
        return [
            Answer(
                decode_answer(sample.ids, stops, tokenizer), sample.ids, sample.truncated, prompt.reference,
                self._rows[run.locate_example(prompt.row)] if self.needs_rows else {},
                str(tokenizer.decode(prompt.ids, skip_special_tokens=True)),
            )
            for prompt, group in zip(prompts, drawn, strict=True)
            for sample in group
        ]  # fmt: skip

    def _micro_batch(
        self,
        batch: Batch,
        prompts: Sequence[Prompt],
        drawn: Sequence[Sequence[SampledAnswer]],
        values: Tensor,
        table: Tensor,
    ) -> Batch:
        s = self.settings
        layout: Layout = "padded"
        key = "document_isolation"
        isolation = {key: batch[key]} if key in batch else {}
        if "lengths" in batch:
            layout = "shared" if s.share_prompts and not isolation else "packed"
        micro_batch = build_micro_batch(prompts, drawn, layout, keep_truncated=not s.mask_truncated)
        return (
            micro_batch | isolation | {"advantages": values, "figures": self._figures(drawn, table)}
        )

    def _figures(self, drawn: Sequence[Sequence[SampledAnswer]], table: Tensor) -> dict[str, float]:
        weights = torch.tensor(list(self.weights.values()))
        deviations = group_std(table, weights, self.settings.num_generations)
        samples = [sample for group in drawn for sample in group]
        figures = {
            "reward": float((table * weights).nansum(1).mean()),
            "reward_std": float(deviations.mean()),
            "equal_groups": float((deviations < 1e-8).float().mean()),
            "answer_tokens": sum(len(sample.ids) for sample in samples) / len(samples),
            "truncated": sum(sample.truncated for sample in samples) / len(samples),
        }
        means = table.nanmean(0).tolist()
        named = {f"reward.{n}": m for n, m in zip(self.functions, means, strict=True) if m == m}
        return figures | named

    def _add_log_probs(self, run: Run, micro_batches: Sequence[Batch]) -> None:
        """Add old and reference log-probabilities to micro-batches, and the share of the entropy bonus."""
        s = self.settings
        with evaluation_mode(run) as model, hooks_disabled():
            for batch in micro_batches:
                if s.num_iterations > 1:
                    batch["old"] = s.token_log_probs(model, batch)[0].cpu()
        if self._reference is not None:
            with self._reference.model() as model, run.autocast():
                for batch in micro_batches:
                    batch["reference"] = s.token_log_probs(model, batch)[0].cpu()
        if s.entropy_coef:
            whole = torch.tensor(
                [s.denominator(micro_batches), len(micro_batches)], dtype=torch.float64
            )
            total, count = _over_ranks(run, whole).tolist()
            for batch in micro_batches:
                batch["share"] = total / count

    def _write_samples(
        self, state: State, answers: Sequence[Answer], table: Tensor, values: Tensor
    ) -> None:
        """Append the answers to one prompt, with rewards and advantages, to samples/rollouts.jsonl."""
        run = state.run
        if run.dir is None or not run.accelerator.is_main_process:
            return
        lines = []
        for answer, scores, advantage in zip(
            answers[: self.settings.num_generations], table.tolist(), values.tolist(), strict=False
        ):
            rewarded = {n: v for n, v in zip(self.functions, scores, strict=True) if v == v}
            line = {"step": state.step, "prompt": answer.prompt, "answer": answer.text}
            line |= {"reference": answer.reference, "rewards": rewarded, "advantage": advantage}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        path = run.dir.path / "samples" / SAMPLES
        path.parent.mkdir(exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            stream.writelines(lines)


def _options(name: str, value: Any) -> dict[str, Any]:
    """Return weight and options of a reward as a mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"weight": value}
    raise UserError(
        f"{value!r} is not a weight.",
        where=f"objective.rewards.{name}",
        fix=f"objective.rewards.{name}=1, or {{weight: 1}} with its options",
    )


def _over_ranks(run: Run, value: Tensor) -> Tensor:
    """Return the sum over all ranks."""
    accelerator = run.accelerator
    if accelerator.num_processes == 1:
        return value
    return accelerator.reduce(value.to(accelerator.device)).cpu()
