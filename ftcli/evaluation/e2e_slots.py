"""Patterns of how the eight facts of an E2E meaning representation (Novikova et al. 2017) are worded.

Text is compared lower-case and without accents. The set's writers were shown pictures for part of
the data and mix scales freely, so values of one level count as the same value:

    priceRange       cheap = less than £20 = low    moderate = £20-25    high = more than £30
    customer rating  low = 1 out of 5    average = 3 out of 5    high = 5 out of 5

An adjective such as "high" belongs to the nearest word about prices or ratings in its sentence,
and does not count beside a figure or a word like "cheap" that states the same fact explicitly.
"restaurant" never counts as invented: it names any place that serves food, including pubs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass

VENUES = ("name", "near")
SENTENCE_END = r"[.!?;] "
SLOT = re.compile(r"(?:^|,)\s*(\w+(?: \w+)?)\s*\[([^\]]*)\]")
LEVELS = {
    "cheap": "low", "less than £20": "low", "low": "low", "1 out of 5": "low",
    "moderate": "mid", "£20-25": "mid", "average": "mid", "3 out of 5": "mid",
    "high": "high", "more than £30": "high", "5 out of 5": "high",
}  # fmt: skip
WORDED = {
    "eatType": {
        "pub": r"\bpubs?\b|\bbar\b",
        "coffee shop": r"\bcoffee[ -]*(shop|house|bar|place|establishment)|\bcafe",
        "restaurant": r"\brest[ao]\w*r\w*nts?\b|\beater(y|ies)\b|\bdiner\b|\bbistro\b|\bplace\b"
        r"|\bestablishment\b|\bvenue\b|\bdining\b|\bcuisine\b|\bfoods?\b",
    },
    "food": {
        "Chinese": r"\bchines", "English": r"\benglish(?! (pound|sterling))|\bbritish(?! pound)|\bfish and chips",
        "French": r"\bfrench|\bfrance", "Italian": r"\bitalian|\bpasta|\bpizza",
        "Japanese": r"\bjapan|\bsushi", "Indian": r"\bindian?\b|\bcurr(y|ies)\b",
        "Fast food": r"\bfast[ -]*foods?\b|\bburgers?\b|\bfries\b",
    },
    "area": {
        "city centre": r"\bcit(y|ies)['s]*[ -]*cent(re|er)|\bcent(re|er|ral)\b(?! park)|\bdowntown"
        r"|\b(heart|middle) of (the )?(city|town)|\bin (the|a) city\b|\btown cent(re|er)",
        "riverside": r"\briver|\bthames\b|\bwater(side|front)",
    },
}  # fmt: skip
PRICE = r"\bpric|\bcost|\bexpens|\bpound|£|\bspend"
RATING = r"\brat(ed|es?|ings?)\b|\bcustomer|\breview|\bstars?\b|\brecommend|\bquality\b"
ADJECTIVES = {
    "low": r"\blow(er|ly)?\b|\bpoor(ly)?\b|\bbad(ly)?\b",
    "mid": r"\baveraged?\b|\bmoderate(ly)?\b|\bmid\b|\bmedium\b|\bdecent(ly)?\b|\bfair(ly)?\b"
    r"|\breasonabl[ey]\b|\bmid(dle|[ -])",
    "high": r"(?<!not )\bhigh(er|ly)?\b|\bexcellent(ly)?\b|\bgreat\b|\bgood\b|\bwell\b|\btop\b",
}
STATED_PRICE = {
    "low": r"\bcheap|\binexpensive|\baffordable|\bbudget|\blow[ -]*(cost|pric)"
    r"|(less|lower|cheaper) tha[nt] *£? *20|(under|below|up to|maximum of) *£? *20"
    r"|£ *20 (or|and) (less|under|below)",
    "mid": r"£? *20[ £]*(-|–|to|and)+[ £]*25|moderately[ -]pric|\baverage pric|\bmid[ -]*(range )?pric",
    "high": r"(?<!not )(?<!moderately )(?<!relatively )(?<!reasonably )\bexpensive|\bpric[e]?y\b|\bupscale|\bhigh[ -]*(end|class|cost)"
    r"|(more|greater|higher) th[ae][nt] *£? *30|(over|above|upwards of) *£? *30"
    r"|£ *30 (or|and|plus)|£ *30\+",
}  # fmt: skip
OUT_OF_5 = (
    r"\b({n}|{word})\b[ -]*((out )?of[ -]*(5|five)|out 5|/ ?5)"
    r"|(?<!out of )(?<!out of-)\b({n}|{word})[ -]*star"
)
STATED_RATING = {
    level: OUT_OF_5.format(n=n, word=word)
    for level, n, word in (("low", 1, "one"), ("mid", 3, "three"), ("high", 5, "five"))
}
SCALES = {"priceRange": (PRICE, STATED_PRICE), "customer rating": (RATING, STATED_RATING)}
FAMILY = re.compile(r"\b(famil|kid|child|youngster|adult|grown[ -]?up|all ages|over 18)")
REFUSAL = re.compile(
    r"\b(not?|non|n't|cannot|never|without|unsuitable|unfriendly|adults?|grown|avoid|inappropriate"
    r"|discourag\w+|un\w*friendly|lacks?|over 18|prohibited|forbidden|leave)\b|n't\b"
    r"|(child(ren)?|kids?|family)[ -]free\b|un(kid|family|child)"
)
NEXT_TO = re.compile(
    r"\b(?:near(?:by)?|close to|next to|beside|opposite|behind) (?:to )?(?:the |The )?(?!River|Thames|City)[A-Z]\w+"
)


@dataclass(frozen=True)
class SlotErrors:
    """The slots a text leaves out, and those it gets wrong or makes up."""

    missed: frozenset[str]
    invented: frozenset[str]


def parse_meaning(text: str) -> dict[str, str]:
    """Return slot -> value of a meaning representation; empty if the text contains none."""
    slots = {name: value for name, value in SLOT.findall(text.strip())}
    return slots if "name" in slots else {}


def find_slot_errors(
    text: str, meaning: Mapping[str, str], venues: Collection[str] = ()
) -> SlotErrors:
    """Return the slots that `text` misses and invents, compared with `meaning`.

    Args:
        venues: names of places; one in the text that is not in `meaning` counts as invented.
    """
    missed, invented = set(), set()
    for slot, values in _find_stated_values(text, meaning, venues).items():
        wanted = meaning.get(slot)
        expected = LEVELS.get(wanted or "", wanted) if slot in SCALES else wanted
        if values - {expected}:
            invented.add(slot)
        elif wanted is not None and expected not in values:
            missed.add(slot)
    return SlotErrors(frozenset(missed), frozenset(invented))


def _find_stated_values(
    text: str, meaning: Mapping[str, str], venues: Collection[str]
) -> dict[str, set[str | None]]:
    """Return for every slot the values that the text states; for prices and ratings, levels."""
    bare, stated = _find_places(text, meaning, venues)
    for slot, values in WORDED.items():
        stated[slot] = {value for value, worded in values.items() if re.search(worded, bare)}
    if meaning.get("eatType") != "restaurant":
        stated["eatType"].discard("restaurant")
    for slot in SCALES:
        stated[slot] = _find_levels(bare, slot)
    stated["familyFriendly"] = _find_family_value(bare)
    return stated


def _find_places(
    text: str, meaning: Mapping[str, str], venues: Collection[str]
) -> tuple[str, dict[str, set[str | None]]]:
    """Return the plain text without the names of places, and the places it states.

    Names are removed first because they contain words that state facts elsewhere ("Raja Indian Cuisine").
    """
    own = {meaning[slot]: slot for slot in VENUES if slot in meaning}
    stated: dict[str, set[str | None]] = {slot: set() for slot in VENUES}
    bare = _normalize(text)
    for venue in sorted({*venues, *own}, key=len, reverse=True):
        bare, found = re.subn(_build_name_pattern(venue), " _ ", bare)
        if found:
            stated[own.get(venue, "near")].add(venue)
    if "near" not in meaning and NEXT_TO.search(text.replace(meaning["name"], "_")):
        stated["near"].add("a place of its own making")
    return bare, stated


def _build_name_pattern(value: str) -> str:
    plain = re.sub(r"^the ", "", _normalize(value))
    return rf"\b(?:the )?{re.escape(plain)}"


def _normalize(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.lower())
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).split())


def _find_levels(text: str, slot: str) -> set[str | None]:
    """Return the levels that the text states on the scale of prices or of ratings."""
    mine, outright = SCALES[slot]
    levels: set[str | None] = {lv for lv, worded in outright.items() if re.search(worded, text)}
    if levels:
        return levels
    for sentence in re.split(SENTENCE_END, text):
        topics = [
            (topic.start(), words)
            for words, _ in SCALES.values()
            for topic in re.finditer(words, sentence)
        ]
        for level, worded in ADJECTIVES.items():
            for adjective in re.finditer(worded, sentence):
                near = sorted(topics, key=lambda topic: abs(topic[0] - adjective.start()))
                if near and near[0][1] == mine:
                    levels.add(level)
    return levels


def _find_family_value(text: str) -> set[str | None]:
    """Return what the text says about children: {"yes"}, {"no"} or an empty set."""
    for clause in re.split(SENTENCE_END, text):
        mention = FAMILY.search(clause)
        if mention:
            around = clause[max(0, mention.start() - 30) : mention.end() + 40]
            return {"no"} if REFUSAL.search(around) else {"yes"}
    return set()
