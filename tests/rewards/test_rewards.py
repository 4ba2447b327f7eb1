"""Every reward on real strings, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.objectives.grpo import GRPO
from ftcli.rewards import Answer, find_reward, list_rewards


def scores(name: str, *answers: Answer, **options) -> list[float | None]:
    return list(find_reward(name, options)(answers))


def build_answers(*texts: str, reference: str = "") -> list[Answer]:
    return [Answer(text, reference=reference) for text in texts]


def of(tokens: int, text: str = "", reference: str = "", **more) -> Answer:
    """An answer of `tokens` distinct tokens."""
    return Answer(text, range(tokens), reference=reference, **more)


@pytest.mark.parametrize("name", list_rewards())
def test_each_gives_one_finite_score_an_answer(name):
    options = {"judge": "exact_match"} if name == "cosine_length" else {}
    texts = (
        [of(n, "B", "B") for n in (1, 2, 2000)]
        if name != "final_number"
        else build_answers("1", "2", reference="1")
    )
    values = scores(name, *texts, **options)
    assert len(values) == len(texts) and all(math.isfinite(score) for score in values)
    assert scores(name, **options) == []


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>7+8=15</think><answer>95</answer>", 1),
        ("<think>7+8=15\n3+5+1=9\n</think>\n\n<answer>\n95\n</answer>\n", 1),
        ("<think>7 < 8</think><answer>a > b</answer>", 1),
        ("95", 0),
        ("<answer>95</answer>", 0),
        ("<think></think><answer>95</answer>", 0),
        ("<think>7+8=15</think><answer></answer>", 0),
        ("<answer>95</answer><think>7+8=15</think>", 0),
        ("So: <think>7+8=15</think><answer>95</answer>", 0),
        ("<think>7+8=15</think> so <answer>95</answer>", 0),
        ("<think>7+8=15</think><answer>95</answer> or 96", 0),
        ("<think>7+8=15</think><answer>95</answer><answer>96</answer>", 0),
        ("<think>7+8=15</think><answer>95</answer>96</answer>", 0),
        ("<think>7</think><think>8</think><answer>95</answer>", 0),
        ("<think>7+8=15</think><answer>95", 0),
    ],
)
def test_form_is_one_think_block_then_one_answer_and_nothing_else(text, score):
    assert scores("format", *build_answers(text)) == [score]


def test_form_by_another_pattern():
    texts = build_answers("The answer is 95.", "95", "It is 95.\nThe answer is 95.")
    assert scores("format", *texts, pattern=r"The answer is \d+\.") == [1, 0, 0]
    with pytest.raises(UserError, match="unterminated"):
        scores("format", *texts, pattern="[a-z")


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        ("7+8=15, 3+5+1=9, 95", "95", 1),
        ("7+8=15, 3+5+1=9, 59", "95", 0),
        ("<think>7+8=15</think><answer>95</answer>", "<think>5+7=12</think><answer>95</answer>", 1),
        ("95, or rather 96", "95", 0),  # the last one is what is answered
        ("#### 95 and 96", "#### 95", 1),  # unless one is marked
        ("It costs $1,250.00", "1250", 1),
        ("-3", "3", 0),
        ("I do not know", "95", 0),
        ("", "95", 0),
    ],
)
def test_the_final_number_is_compared_as_a_number(text, gold, score):
    assert scores("final_number", *build_answers(text, reference=gold)) == [score]


def test_a_gold_answer_that_cannot_be_read_is_a_mistake_of_the_data():
    with pytest.raises(UserError, match="no number in 'none'"):
        scores("final_number", *build_answers("95", reference="none"))
    with pytest.raises(UserError, match="no option letter in '17'"):
        scores("option_letter", *build_answers("A", reference="17"))


def test_gold_may_be_a_column_of_the_row():
    answer = Answer("so B", reference="A", row={"gold": "so B", "letter": "C"})
    assert scores("exact_match", answer) == [0]
    assert scores("exact_match", answer, column="gold") == [1]
    with pytest.raises(UserError, match="no 'total'; it has gold, letter"):
        scores("final_number", answer, column="total")
    assert scores("option_letter", Answer("C", row={"letter": "C"}), column="letter") == [1]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("B", 1),
        ("(B) Aspirin", 1),
        ("B. Aspirin", 1),
        ("C", 0),
        ("<think>Not A.</think><answer>B</answer>", 1),
        ("<think>B?</think><answer>A</answer>", 0),
        ("<answer>A</answer><answer>B</answer>", 0),  # the first one counts
        ("<answer>aspirin</answer> B", 0),
        (r"Hence \boxed{B}", 1),
        ("The answer is B.", 1),
        ("The answer is **B**", 1),
        ("Answer: (B)", 1),
        ("Answer B", 1),
        ("Answer (B)", 1),
        ("B is correct.", 1),
        ("The answer is A. No: the answer is B.", 0),
        ("I would answer b", 0),
        ("Beta blockers", 0),
        ("", 0),
    ],
)
def test_the_letter_of_the_first_answer_counts(text, score):
    assert scores("option_letter", *build_answers(text, reference="B")) == [score]


@pytest.mark.parametrize(
    "text", ["A patient comes in", "I answer a question first", "The answer I give", "A-line"]
)
def test_the_words_a_and_i_are_no_options(text):
    assert scores("option_letter", *build_answers(text, reference="A")) == [0]
    assert scores("option_letter", *build_answers(text, reference="I")) == [0]


def test_exact_match_looks_past_blanks_at_the_ends_only():
    assert scores("exact_match", *build_answers("95", " 95\n", "9 5", "95.", reference="95 ")) == [
        1,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("tokens", "right", "wrong"),
    [
        (0, 1.0, -1.0),
        (10, 0.5 + 0.25 * (1 + math.sqrt(0.5)), -0.5 - 0.25 * (1 + math.sqrt(0.5))),
        (20, 0.75, -0.75),
        (40, 0.5, -0.5),
        (60, 0.5, -0.5),  # no further down, and not up again
    ],
)
def test_short_right_answers_are_best_and_short_wrong_ones_worst(tokens, right, wrong):
    answers = [of(tokens, "95", "95"), of(tokens, "96", "95")]
    values = scores("cosine_length", *answers, judge="final_number", longest=40)
    assert values == pytest.approx([right, wrong])


def test_the_cosine_turns_up_again_without_the_clamp_and_counts_characters_where_asked():
    options = {"judge": "exact_match", "longest": 4}
    values = scores("cosine_length", of(6, "B", "B"), of(8, "B", "B"), clamp=False, **options)
    assert values == pytest.approx([0.75, 1.0])
    values = scores(
        "cosine_length", of(1, "four", "four"), of(4, "", "B"), unit="characters", **options
    )
    assert values == pytest.approx([0.5, -1.0])
    values = scores("cosine_length", of(2, "B", "B"), right=[0, 2], **options)
    assert values == pytest.approx([1.0])


def test_what_is_right_is_for_the_judge_to_say():
    answer = of(0, "The answer is B", "B", row={"letter": "C"})
    assert scores("cosine_length", answer) == [1.0]  # by its letter
    assert scores("cosine_length", answer, judge="exact_match") == [-1.0]
    assert scores("cosine_length", answer, column="letter") == [-1.0]
    with pytest.raises(UserError, match="cannot judge itself"):
        scores("cosine_length", answer, judge="cosine_length")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("a b c d e", 0),
        ("a b a b a b", -0.5),  # aba bab aba bab: 2 of 4
        ("x x x x x", -2 / 3),  # 1 of 3
        ("The cat the CAT the cat", -0.5),
        ("x x", 0),  # there is no trigram
        ("", 0),
    ],
)
def test_repetition_is_the_share_of_trigrams_that_were_there_before(text, score):
    assert scores("repetition", *build_answers(text), unit="words") == pytest.approx([score])


def test_repetition_counts_tokens_unless_told_with_the_n_and_the_penalty_that_are_given():
    answer = Answer("all one word", [5, 6, 5, 6, 5])  # 565 656 565
    assert scores("repetition", answer) == pytest.approx([-1 / 3])
    assert scores("repetition", answer, n=2) == pytest.approx([-0.5])  # 56 65 56 65
    assert scores("repetition", answer, n=1, most=-2.0) == pytest.approx([-1.2])  # 2 of 5


@pytest.mark.parametrize(
    ("tokens", "score"), [(0, 0), (384, 0), (416, -0.25), (448, -0.5), (512, -1), (900, -1)]
)
def test_overlong_falls_from_0_to_minus_1_over_the_margin(tokens, score):
    assert scores("overlong", of(tokens)) == pytest.approx([score])


@pytest.mark.parametrize("margin", [0, 513])
def test_a_margin_that_does_not_fit_is_refused(margin):
    with pytest.raises(UserError, match="does not fit"):
        scores("overlong", of(1), margin=margin)


def test_length_is_a_share_of_the_longest():
    assert scores("length", of(0), of(10), of(40), of(90), longest=40) == [0, 0.25, 1, 1]


def combined(**rewards) -> GRPO:
    return GRPO(rewards=rewards)


def test_scores_stand_in_columns_and_their_weighted_sum_is_the_reward():
    objective = combined(
        final_number=1.0,
        format=0.5,
        cosine_length={"weight": 0.5, "judge": "final_number", "longest": 40},
        repetition=0.5,
        length=None,  # left out
    )
    good = Answer("<think>7+8=15</think><answer>95</answer>", range(20), reference="95")
    bad = Answer("96", [5, 6, 5, 6, 5, 6] + [9] * 14, reference="95")
    table = objective.rollout_builder.scores([good, bad])
    repeated = 5 / 18 - 1  # of 18 trigrams 565, 656, 569, 699 and 999 differ
    assert table[0].tolist() == pytest.approx([1, 1, 0.75, 0])
    assert table[1].tolist() == pytest.approx([0, 0, -0.75, repeated])
    weights = torch.tensor(list(objective.rollout_builder.weights.values()))
    assert (table * weights).sum(1).tolist() == pytest.approx(
        [1 + 0.5 + 0.375, -0.375 + 0.5 * repeated]
    )


def test_a_reward_that_has_nothing_to_say_is_not_a_number():
    rewarding = combined(length={"longest": 4}, exact_match=1).rollout_builder
    rewarding.functions["exact_match"] = lambda answers: [None, 1.0]
    table = rewarding.scores([of(1), of(2)])
    assert table[:, 0].tolist() == [0.25, 0.5] and table[0, 1].isnan() and table[1, 1] == 1
    rewarding.functions["exact_match"] = lambda answers: [1.0]
    with pytest.raises(UserError, match="1 scores for 2 answers"):
        rewarding.scores([of(1), of(2)])
