"""Read whether a turn is learned: OpenAI's `weight`, axolotl's `train`, ms-swift's `loss`."""

from __future__ import annotations

from typing import Any

from ftcli.data.rows import RowError, shorten

#: Keys of a turn whose true value says "learn this".
LEARNED = ("learn", "train", "training", "trainable", "train_on_turn", "loss", "loss_mask")
#: The same as a factor of the loss. Only 0 and 1 are supported.
WEIGHTS = ("weight", "loss_weight", "loss_scale")
#: Keys whose true value says "do not learn this".
HIDDEN = ("masked",)
#: Keys that name parts of a turn, which are not supported.
PARTS = ("train_detail", "training_detail")
WORDS = {"true": True, "false": False, "1": True, "0": False}


def take_learn_flag(turn: dict[str, Any], role: str, number: int) -> bool | None:
    """Remove the keys that say whether a turn is learned and return their value; None without such a key.

    Args:
        turn: the turn without keys that are null; changed in place.
        role: its canonical role.
        number: its position, for messages.

    Raises:
        RowError: an unsupported value, or two keys that contradict each other.
    """
    _refuse_unsupported(turn, number)
    verdicts = {key: _parse_learn(key, turn.pop(key), number) for key in _find_keys(turn)}
    if len(set(verdicts.values())) > 1:
        keys = ", ".join(f"'{key}'" for key in verdicts)
        raise RowError(f"turn {number} contradicts itself: {keys} differ on whether it is learned.")
    learn = next(iter(verdicts.values()), None)
    asked = [key for key in verdicts if key in LEARNED]
    if learn and asked and role != "assistant":
        raise RowError(
            f"turn {number} ({role}) has '{asked[0]}': true, but only answers of the assistant are "
            "learned, unless data.train_on=all; remove the key."
        )
    return learn


def parse_flag(value: Any) -> bool | None:
    """Parse a boolean as data files write it (true, 1, 1.0, "true"); None for any other value."""
    if isinstance(value, str):
        return WORDS.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _find_keys(turn: dict[str, Any]) -> list[str]:
    return [key for key in (*LEARNED, *WEIGHTS, *HIDDEN) if key in turn]


def _parse_learn(key: str, value: Any, number: int) -> bool:
    flag = parse_flag(value)
    if flag is None:
        raise RowError(
            f"turn {number} has '{key}': {shorten(value)}; a turn is learned or not: true or false, 1 or 0."
        )
    return flag != (key in HIDDEN)


def _refuse_unsupported(turn: dict[str, Any], number: int) -> None:
    """Raise RowError for keys that are not supported."""
    if "mask" in turn:
        raise RowError(
            f'turn {number} has \'mask\', which some programs read as "learned" and others as "not '
            "learned\"; write 'train': false or true instead."
        )
    for key in PARTS:
        if turn.pop(key, None):
            raise RowError(
                f"turn {number} has '{key}': parts of a turn cannot be left out of learning; split the "
                "turn, or write 'train': false."
            )
