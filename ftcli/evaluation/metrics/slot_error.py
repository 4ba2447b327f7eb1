"""Slot error rate of data-to-text: facts of an E2E meaning representation missed or invented.

A row's meaning representation, `name[The Mill], food[French], familyFriendly[no]`, is the first of
its columns that looks like one. `ftcli.evaluation.e2e_slots` has the patterns of each fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.evaluation.e2e_slots import VENUES, find_slot_errors, parse_meaning
from ftcli.evaluation.metrics import References, Rows


def slot_error(predictions: Sequence[str], references: References, rows: Rows) -> dict[str, float]:
    """Return facts missed plus facts wrong or invented, in percent of the facts to be stated.

    Rows without a meaning representation are left out. The human references of the E2E test set score
    8.6 (7.1 missed, 1.5 invented; 4,693 texts), so compare with that rate, not with zero.
    """
    pairs = [
        (text, meaning)
        for text, meaning in zip(predictions, map(_find_meaning, rows), strict=True)
        if meaning
    ]
    if not pairs:
        return {}
    known = {meaning[slot] for _, meaning in pairs for slot in VENUES if slot in meaning}
    slots = sum(len(meaning) for _, meaning in pairs)
    found = [find_slot_errors(text, meaning, known) for text, meaning in pairs]
    missed = sum(len(errors.missed) for errors in found)
    invented = sum(len(errors.invented) for errors in found)
    return {
        "slot_error": 100 * (missed + invented) / slots,
        "slots_missed": 100 * missed / slots,
        "slots_invented": 100 * invented / slots,
    }


def _find_meaning(row: Mapping[str, Any]) -> dict[str, str]:
    for value in row.values():
        if isinstance(value, str) and (meaning := parse_meaning(value)):
            return meaning
    return {}
