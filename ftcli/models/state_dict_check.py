"""Refusal of weight files that do not fit a model, with the names of the tensors and their shares.

transformers draws random values for parameters that the files lack, and ignores tensors that the model
has no parameter for. Both are errors here, unless the model's own class says otherwise (tied
heads, buffers, `_keys_to_ignore_on_load_*`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ftcli.core.errors import UserError
from ftcli.models.weight_files import FETCH_AGAIN

Shapes = Mapping[str, tuple[int, ...]]
UnexpectedKeysPolicy = Literal["refuse", "ignore"]
#: Attributes by which torch's wrappers hold a module: compile, FSDP, activation checkpointing.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Attributes by which DataParallel, PEFT and training frameworks hold a whole model.
LEADING = ("module.", "base_model.model.", "model.")


@dataclass(frozen=True)
class Misfit:
    """Differences between weight files and a model; empty where they fit.

    Attributes:
        missing: parameters of the model that the files lack -> shape.
        unexpected: tensors in the files that the model has no parameter for -> shape.
        mismatched: parameters -> shape in the files, shape in the model.
    """

    missing: Shapes
    unexpected: Shapes
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def from_info(cls, info: Mapping[str, Any], model: Any, shapes: Shapes) -> Misfit:
        """Build it from the loading info of transformers or diffusers.

        Args:
            model: the loaded model; shapes of missing parameters are read from it.
            shapes: shapes of the tensors in the files, under the names in the files.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        mismatched = {name: (tuple(a), tuple(b)) for name, a, b in info["mismatched_keys"]}
        return cls(
            {name: expected.get(name, ()) for name in sorted(info["missing_keys"])},
            {name: shapes.get(name, ()) for name in sorted(info["unexpected_keys"])},
            mismatched,
        )

    def exclude(self, allowed: Iterable[str]) -> Misfit:
        """Return the misfit without the tensors of some names."""
        names = set(allowed)

        def select(tensors: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in tensors.items() if name not in names}

        return Misfit(select(self.missing), select(self.unexpected), select(self.mismatched))

    def refuse(
        self, name: str, model: Any, shapes: Shapes, extra: UnexpectedKeysPolicy = "refuse"
    ) -> None:
        """Raise an error if anything differs.

        Args:
            name: the model's name in the message.
            extra: whether tensors that the model has no parameter for are refused too.

        Raises:
            UserError: tensors are missing, unexpected or of another shape; with their shares.
        """
        unexpected = self.unexpected if extra == "refuse" else {}
        total = _count(tuple(t.shape) for t in model.state_dict().values())
        parts = []
        if self.missing:
            share = _share(_count(self.missing.values()), total)
            parts.append(f"they lack {_list_tensors(self.missing)}, {share} of its parameters")
        if self.mismatched:
            share = _share(_count(expected for _, expected in self.mismatched.values()), total)
            first, (stored, expected) = next(iter(self.mismatched.items()))
            parts.append(
                f"they have another shape for {_list_tensors(self.mismatched)}, {share} of its parameters "
                f"({first} is {list(stored)} in the files and {list(expected)} in the model)"
            )
        if unexpected:
            share = _share(_count(unexpected.values()), _count(shapes.values()))
            parts.append(
                f"the model has no parameter for {_list_tensors(unexpected)}, {share} of the stored values"
            )
        if parts:
            raise UserError(
                f"the files of {name} do not fit {type(model).__name__}: {'; '.join(parts)}.",
                where="model.path",
                fix=self._suggest_fix(unexpected),
            )

    def _suggest_fix(self, unexpected: Shapes) -> str:
        if any(".lora_" in name or ".base_layer." in name for name in unexpected):
            return "merge the adapter that is in the files (merge_and_unload), and save the result"
        if self.missing or self.mismatched:
            return (
                "fetch the files again, or save them again from the model that was trained "
                "(model.save_pretrained); config.json must be that of the same model"
            )
        return "model.extra_weights=ignore leaves them out, if they belong to something else"


def compare_shapes(name: str, model: Any, shapes: Shapes, key_mapping: Mapping[str, str]) -> Misfit:
    """Compare tensors of these shapes with a model of transformers, by the library's own loader.

    The loader is given tensors of the meta device, so that renamed keys, experts stored one by one,
    tied weights and ignored keys count as they do in a real load, and nothing is read.

    Args:
        name: the name of the files in messages.
        model: on the meta device.

    Raises:
        UserError: tensors that the library joins cannot be joined.
    """
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with translate_conversion_error(name, type(model).__name__), _hide_progress_bars():
        loaded, info = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=empty,
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            key_mapping=dict(key_mapping),
        )
    return Misfit.from_info(info, loaded, strip_prefixes(shapes, key_mapping))


def find_wrapper_prefixes(shapes: Shapes, model: Any) -> dict[str, str]:
    """Find the prefixes that wrappers have added to tensor names; return pattern -> replacement.

    Args:
        model: its names show whether a leading `model.` is a wrapper's.
    """
    names, mapping = list(shapes), {}
    for wrapper in WRAPPERS:
        most = max((name.count(f"{wrapper}.") for name in names), default=0)
        for number in range(
            most
        ):  # each pattern is applied once to a name; a comment tells them apart
            mapping[rf"{wrapper}\.(?#{number})"] = ""
        names = [name.replace(f"{wrapper}.", "") for name in names]
    leading = ""
    while (prefix := _find_leading(names, model)) is not None:
        names, leading = [name.removeprefix(prefix) for name in names], leading + prefix
    if leading:
        mapping[f"^{re.escape(leading)}"] = ""
    return mapping


def _find_leading(names: list[str], model: Any) -> str | None:
    """Return a wrapper's prefix that all names share and without which more of them are the model's."""
    core = f"{getattr(model, 'base_model_prefix', '')}."
    expected = {name.removeprefix(core) for name in model.state_dict()}

    def count_known(prefix: str) -> int:
        return sum(name.removeprefix(prefix).removeprefix(core) in expected for name in names)

    for prefix in LEADING:
        if (
            names
            and all(name.startswith(prefix) for name in names)
            and count_known(prefix) > count_known("")
        ):
            return prefix
    return None


def describe_prefixes(mapping: Mapping[str, str]) -> str:
    """Return a note on the removed prefixes; empty where there are none."""
    plain = [re.sub(r"\(\?#\d+\)|[\\^]", "", pattern) for pattern in mapping]
    prefixes = ", ".join(f"'{prefix}'" for prefix in dict.fromkeys(plain))
    return (
        f"a wrapper's prefix {prefixes} was removed from the names of the tensors" if plain else ""
    )


def forget_prefixes(model: Any, mapping: Mapping[str, str]) -> None:
    """Remove the prefixes from the model's weight conversions, which would add them when it is saved."""
    used = getattr(model, "_weight_conversions", None)
    if mapping and used:
        patterns = set(mapping)
        model._weight_conversions = [
            c for c in used if not patterns & set(c._original_source_patterns)
        ]


def strip_prefixes(shapes: Shapes, mapping: Mapping[str, str]) -> Shapes:
    """Return the shapes under names without the prefixes."""

    def rename(name: str) -> str:
        for pattern, replacement in mapping.items():
            name = re.sub(pattern, replacement, name, count=1)
        return name

    return {rename(name): shape for name, shape in shapes.items()} if mapping else shapes


@contextmanager
def translate_conversion_error(name: str, model: str) -> Iterator[None]:
    """Withhold transformers' table of weights that do not fit; turn a failed conversion into an error.

    Args:
        name: the name of the files in the message.
        model: the name of its class.

    Raises:
        UserError: tensors that the library joins (experts, fused projections) cannot be joined.
    """
    withheld: list[str] = []

    def withhold(record: logging.LogRecord) -> bool:
        withheld.append(record.getMessage())
        return record.levelno > logging.WARNING

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(withhold)
    try:
        yield
    except RuntimeError as error:
        if "automatic conversion of the weights" not in str(error):
            raise
        joined = re.findall(r"^(\S+)\s*\|[^|\n]*CONVERSION", "\n".join(withheld), re.MULTILINE)
        what = (
            f"of what makes up {_list_tensors(joined)}, some tensors are absent or have another shape"
            if joined
            else "some weights cannot be converted while they are loaded"
        )
        raise UserError(
            f"the files of {name} do not fit {model}: {what}.", "model.path", FETCH_AGAIN
        ) from error
    finally:
        logger.removeFilter(withhold)


@contextmanager
def _hide_progress_bars() -> Iterator[None]:
    from transformers.utils import logging as library

    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bar()


def _list_tensors(names: Iterable[str]) -> str:
    """Return their number and the first of each kind; names that differ only in digits are of one kind."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    count = sum(map(len, kinds.values()))
    shown = [
        f"{alike[0]} and {len(alike) - 1} like it" if len(alike) > 1 else alike[0]
        for alike in list(kinds.values())[:3]
    ]
    more = f", {len(kinds) - 3} more kinds" if len(kinds) > 3 else ""
    return f"{count} tensor{'s' * (count > 1)} ({'; '.join(shown)}{more})"


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def _share(part: int, total: int) -> str:
    return f"{100 * part / total:.3g} %" if total else "some"
