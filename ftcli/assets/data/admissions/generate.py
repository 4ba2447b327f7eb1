"""Made-up hospital stays: events sorted by time, a summary of them, and one with altered numbers.

    python generate.py        # writes base, train and test beside this file, the same bytes every time

They replace MIMIC-III, which may not be redistributed, and follow the cohort of NOTE (arXiv 2402.11882):
adults of 19 years or more, stays of less than 7 days, the events of one admission sorted by time and
concatenated. They describe no real person; all values are random.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

SEED = 19
ROWS = {"base": 2400, "train": 1200, "test": 200}
ADULT, STAY = 19, timedelta(days=7)
REASONS = (
    "pneumonia", "chest pain", "a broken hip", "heart failure", "a fall", "sepsis", "a stroke",
    "kidney stones", "asthma", "a burn",
)  # fmt: skip
#: Name -> lowest and highest value, decimals.
MEASURED = {
    "heart rate": (48, 149, 0), "glucose": (70, 329, 0), "sodium": (118, 156, 0),
    "creatinine": (0.5, 5.9, 1), "potassium": (2.6, 6.4, 1), "temperature": (35.1, 40.4, 1),
    "platelets": (40, 480, 0), "lactate": (0.6, 9.2, 1),
}  # fmt: skip
DRUGS = ("aspirin", "morphine", "heparin", "vancomycin", "metoprolol", "insulin")


@dataclass(frozen=True)
class Event:
    """One line of one of the hospital's tables."""

    time: datetime
    table: str
    text: str


@dataclass(frozen=True)
class Stay:
    """An admission: who, why, and what was measured and given."""

    hadm_id: int
    age: int
    reason: str
    admitted: datetime
    discharged: datetime
    events: tuple[Event, ...]

    @property
    def belongs(self) -> bool:
        """Whether the stay is in the cohort."""
        return self.age >= ADULT and self.discharged - self.admitted < STAY


def draw_stay(rng: random.Random, hadm_id: int) -> Stay:
    """Return a random stay, which may be outside the cohort."""
    admitted = datetime(2126, 1, 1) + timedelta(minutes=rng.randrange(525_600))
    discharged = admitted + timedelta(hours=rng.randrange(20, 200))
    span = int((discharged - admitted).total_seconds()) // 60
    age, reason = rng.randrange(12, 95), rng.choice(REASONS)

    def within() -> datetime:
        return admitted + timedelta(minutes=rng.randrange(30, span - 30))

    events = [
        Event(admitted, "ADMISSIONS", f"admitted, age {age}, {reason}"),
        Event(discharged, "ADMISSIONS", "discharged"),
    ]
    for name in rng.sample(sorted(MEASURED), 2):
        low, high, decimals = MEASURED[name]
        events.append(Event(within(), "LABEVENTS", f"{name} {rng.uniform(low, high):.{decimals}f}"))
    dose = rng.randrange(5, 1000, 5)
    events.append(Event(within(), "PRESCRIPTIONS", f"{rng.choice(DRUGS)} {dose} mg"))
    rng.shuffle(events)  # as rows of several tables are not sorted by time
    return Stay(hadm_id, age, reason, admitted, discharged, tuple(events))


def serialise_events(stay: Stay) -> str:
    """Return the prompt: one event a line, sorted by time."""
    return "\n".join(
        f"{e.time:%m-%d} {e.text}" for e in sorted(stay.events, key=lambda e: (e.time, e.table))
    )


def summarise(stay: Stay, style: int) -> list[str | tuple[str]]:
    """Return the summary in pieces; a number or a date is a tuple of one string."""
    ordered = sorted(stay.events, key=lambda e: e.time)
    measured = [e.text.rpartition(" ") for e in ordered if e.table == "LABEVENTS"]
    drug, dose, _ = next(e.text.split() for e in ordered if e.table == "PRESCRIPTIONS")
    (name, _, first), (other_name, _, second) = measured
    arrival, departure = (f"{stay.admitted:%m-%d}",), (f"{stay.discharged:%m-%d}",)
    if style:
        return [
            "A patient aged ", (str(stay.age),), " came on ", arrival, f" with {stay.reason}. {name} was ",
            (first,), f" and {other_name} ", (second,), f". {drug} ", (dose,), " mg was given. Went home on ",
            departure, ".",
        ]  # fmt: skip
    return [
        "Admitted on ", arrival, f" with {stay.reason} at the age of ", (str(stay.age),), f". {name} ",
        (first,), f", {other_name} ", (second,), f". Given {drug} ", (dose,), " mg. Discharged on ", departure, ".",
    ]  # fmt: skip


def alter_numbers(rng: random.Random, pieces: list[str | tuple[str]]) -> list[str | tuple[str]]:
    """Return the pieces with one digit changed in one or two of the numbers."""
    numbers = [i for i, piece in enumerate(pieces) if isinstance(piece, tuple)]
    changed = list(pieces)
    for index in rng.sample(numbers, rng.choice((1, 2))):
        text = pieces[index][0]
        place = rng.choice([i for i, letter in enumerate(text) if letter.isdigit()])
        digit = rng.choice([d for d in "0123456789" if d != text[place]])
        changed[index] = (text[:place] + digit + text[place + 1 :],)
    return changed


def join_pieces(pieces: list[str | tuple[str]]) -> str:
    """Return the text of the pieces."""
    return "".join(piece if isinstance(piece, str) else piece[0] for piece in pieces)


def draw_rows(seed: int = SEED) -> Iterator[dict[str, Any]]:
    """Yield rows of the cohort without end."""
    rng, hadm_id = random.Random(seed), 100_000
    while True:
        hadm_id += 1
        stay, style = draw_stay(rng, hadm_id), rng.randrange(2)
        if not stay.belongs:
            continue
        pieces = summarise(stay, style)
        yield {
            "hadm_id": hadm_id,
            "prompt": serialise_events(stay),
            "chosen": join_pieces(pieces),
            "rejected": join_pieces(alter_numbers(rng, pieces)),
        }


def write(folder: Path) -> None:
    """Write all splits as gzipped JSON lines without a time stamp."""
    stream = draw_rows()
    for split, count in ROWS.items():
        text = "".join(f"{json.dumps(next(stream))}\n" for _ in range(count))
        with open(folder / f"{split}.jsonl.gz", "wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
                file.write(text.encode())


if __name__ == "__main__":
    write(Path(__file__).parent)
