"""What a rollout hands on: answers that are drawn as they are scored, whatever stands beside them."""

from __future__ import annotations

import pytest
import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.callback import State
from ftcli.core.run import Run
from ftcli.models.decoding import evaluation_mode, find_stop_ids
from ftcli.objectives.rollouts import Prompt, build_micro_batch, read_prompts
from ftcli.objectives.sampling import SampledAnswer, sample_answers
from ftcli.run.build import build_run

GROUP, TEMPERATURE = 3, 0.7
JOB = (
    "method=dora", "method.r=2", "method.use_rslora=true", "method.lora_dropout=0.5",
    "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32", "data=e2e",
    "data.limit=12", "data.validation=null", "data.test=null", "eval=none", "objective=grpo",
    "+objective.rewards={length: {weight: 1, longest: 8}}", f"+objective.num_generations={GROUP}",
    "+objective.max_new_tokens=8", f"+objective.temperature={TEMPERATURE}",
    "+objective.num_iterations=2", "trainer.batch_size=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A model whose adapter is not the identity, in training mode, with dropout asked for."""
    composed = compose("qlora_mini", [*JOB, f"data.cache_dir={tmp_path_factory.mktemp('t')}"])
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    run.objective.setup(run)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    run.model.train()
    return run


def prompts(run: Run, rows: list[int]) -> list[Prompt]:
    return read_prompts(
        run.build_loader().batch(rows), run.tokenizer, find_stop_ids(run.tokenizer, run.model)
    )


def alone(run: Run, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities of an answer's tokens by a plain forward pass of one row."""
    with evaluation_mode(run) as model:
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    logs = (logits / TEMPERATURE).log_softmax(-1)
    return logs.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_kept_log_probabilities_are_those_of_the_model_that_wrote(run, layout, monkeypatch):
    monkeypatch.setattr(run.objective, "share_prompts", layout == "shared")
    batch = run.build_loader().batch([0, 3])
    if layout == "padded":
        batch = padded(batch)
    torch.manual_seed(1)
    (rollout,) = run.objective.rollout_builder.build(State(run, run.model, 1), [batch])
    assert ("shared" in rollout, "lengths" in rollout) == (layout == "shared", layout != "padded")
    asked = prompts(run, [0, 3])
    stops = find_stop_ids(run.tokenizer, run.model)
    with torch.no_grad():
        trained, _ = run.objective.token_log_probs(
            run.model, rollout
        )  # as a step does, in training mode
    assert torch.equal(trained, rollout["old"])  # dropout is off, so the ratio begins at exactly 1
    for answer in range(len(asked) * GROUP):
        mine = rollout["owner"] == answer
        ids = rollout["targets"][mine].tolist()
        assert len(ids) == 8 or ids[-1] in stops  # the token that ends it is learned too
        wanted = alone(run, asked[answer // GROUP].ids, ids)
        assert (rollout["old"][mine] - wanted).abs().max() < 1e-5


def padded(batch: dict) -> dict:
    """The same documents, in rows."""
    documents = [batch[k][0].split(batch["lengths"].tolist()) for k in ("input_ids", "labels")]
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=fill)
        for some, fill in zip(documents, (0, -100), strict=True)
    )
    there = torch.arange(ids.shape[1]) < batch["lengths"][:, None]
    rest = {"indices": batch["indices"], "attention_mask": there.long()}
    return {"input_ids": ids, "labels": labels, **rest}


def test_tokens_are_drawn_from_the_distribution_they_are_scored_by(run):
    """The mean log-probability of draws is minus the entropy, up to chance; of another temperature not."""
    count = 600
    (prompt,) = prompts(run, [0])
    torch.manual_seed(2)
    with evaluation_mode(run) as model:
        (drawn,) = sample_answers(
            model, run.tokenizer, [prompt.ids], count, 1, count, temperature=TEMPERATURE
        )
        logits = model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]
    tokens = torch.tensor([answer.ids[0] for answer in drawn])

    def surprise(temperature: float) -> float:
        """By how many standard errors the draws are less likely than expected."""
        logs = (logits / temperature).log_softmax(-1)
        mean = (logs.exp() * logs).sum()
        deviation = ((logs.exp() * logs.square()).sum() - mean**2).sqrt()
        return float((mean - logs[tokens].mean()) / deviation * count**0.5)

    assert abs(surprise(TEMPERATURE)) < 3
    assert abs(surprise(1.0)) > 5


def test_an_answer_depends_on_its_own_prompt_alone(run):
    """Prompts of other lengths and their padding beside it change nothing."""
    some = [p.ids for p in prompts(run, [0, 1, 2])]
    some[1] = some[1][:-5]
    greedy = {"top_k": 1}
    with evaluation_mode(run) as model:
        together = sample_answers(model, run.tokenizer, some, 2, 6, **greedy)
        apart = [
            sample_answers(model, run.tokenizer, [prompt], 2, 6, **greedy)[0] for prompt in some
        ]
    assert len({len(prompt) for prompt in some}) > 1
    assert together == apart and together[0] != together[1]


def test_cut_answers_are_left_out_of_the_tokens_and_stay_among_the_answers():
    prompt = [Prompt([1, 7, 8], "", 0)]
    answers = [
        [SampledAnswer([5, 2], False), SampledAnswer([5, 6, 5], True), SampledAnswer([6, 2], False)]
    ]
    batch = build_micro_batch(prompt, answers, "padded", keep_truncated=False)
    assert batch["targets"].tolist() == [5, 2, 6, 2] and batch["owner"].tolist() == [0, 0, 2, 2]
    assert batch["where"].tolist() == [2, 3, 14, 15]  # rows of 6; predicted one position before
    assert (batch["answers"], batch["group"], batch["num_supervised"]) == (3, 3, 4)
    assert batch["attention_mask"].sum(1).tolist() == [5, 6, 5]
    whole = build_micro_batch(prompt, answers, "padded")
    assert whole["targets"].tolist() == [5, 2, 5, 6, 5, 6, 2]
