"""The two languages: what they share and what they do not, and their rows as data."""

from __future__ import annotations

import pytest

from ftcli.core.errors import UserError
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.lt_sft.data import TwoLanguages
from ftcli.papers.lt_sft.languages import (
    FUNCTION_WORDS,
    NAMES,
    TOPICS,
    Place,
    build_lexicon,
    write_rows,
)


def words_of(language, kind):
    rows = write_rows(Place(language, kind), "train", 400)
    return {word for row in rows for word in (row.get("text") or row["prompt"]).split()} - {"."}


@pytest.fixture(scope="module")
def tokenizer():
    return CausalLMSource("asset:llama_mini").load_tokenizer()


def test_labelled_sentences_share_no_word():
    assert not words_of("north", "topic") & words_of("south", "topic")


def test_texts_share_the_names_alone():
    names = {name for topic in build_lexicon()["north"] for name in topic.names}
    assert len(names) == NAMES * len(TOPICS)
    assert words_of("north", "text") & words_of("south", "text") == names


@pytest.mark.parametrize("language", ["north", "south"])
def test_no_word_is_in_two_topics(language):
    words = [word for topic in build_lexicon()[language] for part in topic for word in part]
    assert len(words) == len(set(words))
    assert not set(words) & {*FUNCTION_WORDS["north"], *FUNCTION_WORDS["south"], *TOPICS}


def test_the_verb_is_last_in_the_south_alone():
    verbs = {
        name: {verb for topic in topics for verb in topic.verbs}
        for name, topics in build_lexicon().items()
    }
    for language, last in (("north", False), ("south", True)):
        rows = write_rows(Place(language, "topic"), "train", 40)
        ends = [row["prompt"].split()[-2] in verbs[language] for row in rows]
        assert ends == [last] * 40


def count_topics(text, language):
    """How many words of the text each topic has."""
    lexicon = build_lexicon()[language]
    return [sum(word in part for word in text.split() for part in topic) for topic in lexicon]


@pytest.mark.parametrize("language", ["north", "south"])
def test_the_label_is_the_topic_of_most_words(language):
    """Of 0.4 of the words a quarter are of the label's topic by chance."""
    own = total = 0
    for row in write_rows(Place(language, "topic"), "train", 1000):
        counts = count_topics(row["prompt"], language)
        own += counts[TOPICS.index(row["completion"].strip())]
        total += sum(counts)
    assert total == 5 * 1000
    assert own / total == pytest.approx(0.6 + 0.4 / 4, abs=0.03)


@pytest.mark.parametrize("language", ["north", "south"])
def test_a_text_stays_with_its_topic(language):
    for row in write_rows(Place(language, "text"), "test", 40):
        assert sorted(count_topics(row["text"], language))[:3] == [0, 0, 0]


def test_every_word_is_one_token(tokenizer):
    words = {
        w for language in build_lexicon().values() for topic in language for p in topic for w in p
    }
    words |= {*TOPICS, *FUNCTION_WORDS["north"], *FUNCTION_WORDS["south"]}
    assert all(
        len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1 for word in words
    )


def test_splits_and_sets_hold_different_rows(tokenizer, tmp_path):
    data = TwoLanguages(
        "north/topic", validation=0.25, test="test", prompt_template="{prompt}",
        eval_sets={"south": {"path": "south/topic", "split": "test"}}, cache_dir=str(tmp_path),
    )  # fmt: skip
    sizes = {split: len(data.prepare(split, tokenizer)) for split in data.splits}
    assert sizes["train"] + sizes["validation"] == 4000
    assert 900 < sizes["validation"] < 1100
    assert sizes["test"] == sizes["south"] == 256
    prompts = {split: {e["prompt"] for e in data.examples(split)} for split in data.splits}
    assert not prompts["train"] & prompts["validation"]
    assert len(prompts["test"] - prompts["train"]) > 200
    assert not prompts["south"] & (prompts["train"] | prompts["test"])


@pytest.mark.parametrize("path", ["east/text", "north", "south/poems"])
def test_other_places_are_refused(path, tokenizer, tmp_path):
    with pytest.raises(UserError, match="no rows"):
        TwoLanguages(path, cache_dir=str(tmp_path)).prepare("train", tokenizer)
