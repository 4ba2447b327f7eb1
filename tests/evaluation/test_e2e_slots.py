"""The wording patterns of E2E facts, and the score of the human references under them."""

from __future__ import annotations

import pytest

from ftcli.evaluation.e2e_slots import find_slot_errors, parse_meaning
from ftcli.evaluation.metrics.slot_error import slot_error

MR = (
    "name[The Mill], eatType[pub], food[Indian], priceRange[less than £20], customer rating[low],"
    " area[city centre], familyFriendly[no], near[Raja Indian Cuisine]"
)
FULL = (
    "The Mill is a cheap Indian pub in the city centre near Raja Indian Cuisine. "
    "It is rated 1 out of 5 and is not family-friendly."
)
PLACES = {"Raja Indian Cuisine", "The Mill", "Café Rouge", "Burger King"}


def test_a_meaning_representation_is_parsed_and_other_text_is_not():
    assert parse_meaning(MR)["customer rating"] == "low" and len(parse_meaning(MR)) == 8
    assert parse_meaning("area[riverside]") == {} and parse_meaning(FULL) == {}


def test_a_faithful_sentence_has_no_error():
    errors = find_slot_errors(FULL, parse_meaning(MR), PLACES)
    assert not errors.missed and not errors.invented


@pytest.mark.parametrize(
    ("slot", "old", "new"),
    [
        ("food", " Indian pub", " pub"),
        ("eatType", " pub", " house"),
        ("priceRange", " cheap", ""),
        ("customer rating", "rated 1 out of 5 and is ", ""),
        ("area", " in the city centre", ""),
        ("familyFriendly", " and is not family-friendly", ""),
        ("near", " near Raja Indian Cuisine", ""),
        ("name", "The Mill", "This"),
    ],
)
def test_what_is_left_out_is_missed(slot, old, new):
    errors = find_slot_errors(FULL.replace(old, new), parse_meaning(MR), PLACES)
    assert errors.missed == {slot} and not errors.invented


@pytest.mark.parametrize(
    ("slot", "old", "new"),
    [
        ("food", " Indian pub", " French pub"),
        ("priceRange", "cheap", "high priced"),
        ("customer rating", "1 out of 5", "5 out of 5"),
        ("area", "in the city centre", "by the river"),
        ("familyFriendly", "not family-friendly", "family-friendly"),
        ("near", "near Raja Indian Cuisine", "near Café Rouge"),
        ("eatType", " pub", " coffee shop"),
    ],
)
def test_what_is_said_wrongly_is_invented(slot, old, new):
    assert find_slot_errors(FULL.replace(old, new), parse_meaning(MR), PLACES).invented == {slot}


@pytest.mark.parametrize(
    ("said", "slot"),
    [("It has high prices.", "priceRange"), ("It has a high customer rating.", "customer rating"),
     ("Kids are welcome.", "familyFriendly"), ("It is near Clare Hall.", "near")],
)  # fmt: skip
def test_a_fact_nobody_asked_for_is_invented(said, slot):
    meaning = parse_meaning("name[The Mill], eatType[pub]")
    assert find_slot_errors(f"The Mill is a pub. {said}", meaning).invented == {slot}


@pytest.mark.parametrize(
    ("value", "slot", "said"),
    [
        ("high", "priceRange", "It costs more than £30."),
        ("moderate", "priceRange", "The price range is £20-25."),
        ("3 out of 5", "customer rating", "Its customer rating is average."),
        ("5 out of 5", "customer rating", "It is a five star venue."),
        ("1 out of 5", "customer rating", "It has 1 out of 5 stars."),
        ("no", "familyFriendly", "It offers a children-free atmosphere."),
        ("no", "familyFriendly", "Children are not welcome."),
        ("yes", "familyFriendly", "Bring the kids."),
        ("riverside", "area", "It is beside the River Thames."),
    ],
)
def test_paraphrases_of_the_writers_count(value, slot, said):
    errors = find_slot_errors(f"The Mill. {said}", {"name": "The Mill", slot: value})
    assert not errors.missed and not errors.invented


def test_slot_error_is_a_percentage_of_slots_and_absent_without_any():
    rows = [{"mr": MR}, {"mr": MR}]
    got = slot_error([FULL, FULL.replace(" cheap", "")], [[], []], rows)
    assert got["slot_error"] == pytest.approx(100 / 16)
    assert got["slots_missed"] == got["slot_error"] and got["slots_invented"] == 0
    assert slot_error([FULL], [[]], [{"question": "why?"}]) == {}
    assert slot_error([""], [[]], [{"mr": MR}])["slots_missed"] == 100
