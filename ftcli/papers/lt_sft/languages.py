"""Two made-up languages with one grammar of topics, and texts and labelled sentences in them.

North and south say the same things in other words and another order: an adjective precedes its noun in
the north and follows it in the south, and the verb comes last in the south. Words of content belong to
one of four topics, and a paragraph stays with its topic. Only names are shared: each belongs to a topic too, so that
plain text of both languages says which words go together. Labelled sentences hold no name, so that
nothing in a southern sentence has ever stood in a northern one; some of their words stray from the topic, so
that no model can be sure of every label.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

Language = Literal["north", "south"]
Kind = Literal["text", "topic"]

TOPICS = ("first", "second", "third", "four")  # the label words: each is one token, "fourth" two
NOUNS, VERBS, ADJECTIVES, NAMES = 8, 4, 4, 3  # words of a topic
SENTENCES = 4  # of a paragraph
NAMED = {"text": 0.5, "topic": 0.0}  # share of the sentences whose subject is a name
STRAYING = {"text": 0.0, "topic": 0.4}  # share of the words that are of any topic
SEED = 57

#: Words that are one token of the shipped vocabulary; their English meaning plays no part.
FUNCTION_WORDS = {"north": ("the", "near"), "south": ("some", "upon")}
WORDS = """
father mother brother sister husband family uncle friend woman children lady girl house
letter book school road window garden field tree river water forest island sea boat ship
captain sword battle enemy guard king queen prince castle crown court church heaven spirit soul
heart blood hand head face eyes voice hair mouth foot body money gold silver bank price trade
business company market office paper story song music picture dream night morning evening winter
summer spring season weather rain snow storm wind fire light dark cold warm heavy soft short long
high deep wide broad quick slow early late young great small large strong weak rich poor happy sorry
proud angry afraid quiet loud sweet bitter clean fresh full open close carry bring take leave
follow lead meet find lose keep hold break build burn cook catch kill save sell serve visit
walk watch wear wish work write read play sing speak laugh sleep stand move turn
pull reach join answer horse dog bird fish stone iron glass bread wine fruit dinner table
door wall floor room bed chair nation
""".split()


class Topic(NamedTuple):
    """The words of one topic in one language; names are the same in both."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    adjectives: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Rows of one language and kind: `south/text`, `north/topic`."""

    language: Language
    kind: Kind


@cache
def build_lexicon() -> dict[Language, tuple[Topic, ...]]:
    """Return the topics of each language; no word but the names is in two of them."""
    words = iter(WORDS)

    def take(count: int) -> tuple[str, ...]:
        return tuple(next(words) for _ in range(count))

    names = [take(NAMES) for _ in TOPICS]
    languages: tuple[Language, ...] = ("north", "south")
    return {
        language: tuple(
            Topic(take(NOUNS), take(VERBS), take(ADJECTIVES), shared) for shared in names
        )
        for language in languages
    }


def write_sentence(place: Place, label: int, rng: random.Random) -> str:
    """Return a sentence about the topic of a number."""
    topics, north = build_lexicon()[place.language], place.language == "north"
    article, near = FUNCTION_WORDS[place.language]

    def draw(part: Literal["nouns", "verbs", "adjectives"]) -> str:
        strays = rng.random() < STRAYING[place.kind]
        words: tuple[str, ...] = getattr(rng.choice(topics) if strays else topics[label], part)
        return rng.choice(words)

    def describe_noun() -> list[str]:
        noun, quality = draw("nouns"), draw("adjectives")
        return [article, quality, noun] if north else [article, noun, quality]

    actor, verb, goal = describe_noun(), draw("verbs"), describe_noun()
    if rng.random() < NAMED[place.kind]:
        actor = [rng.choice(topics[label].names)]
    if rng.random() < 0.5:
        goal = [near, *goal] if north else [*goal, near]
    return " ".join([*actor, verb, *goal] if north else [*actor, *goal, verb])


def write_rows(place: Place, split: str, count: int) -> list[dict[str, str]]:
    """Return rows of a split: {text}, or {prompt, completion} whose completion is the label word.

    The same arguments give the same rows on every machine.
    """
    rng, rows = random.Random(f"{SEED} {place.language} {place.kind} {split}"), []
    for index in range(count):
        label = index % len(TOPICS)
        if place.kind == "text":
            sentences = [write_sentence(place, label, rng) for _ in range(SENTENCES)]
            rows.append({"text": " " + " . ".join(sentences) + " ."})
        else:
            prompt = f" {write_sentence(place, label, rng)} ."
            rows.append({"prompt": prompt, "completion": f" {TOPICS[label]}"})
    return rows
