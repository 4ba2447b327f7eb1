"""What ftcli does with a model of each type, against the library's own result on each document alone.

A type goes through the product's loader, batches, objective, method and merge. Each step is `right`
(within `LIMIT` nats a token of the library), refused by one UserError, or a fault.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ftcli.data.loader import Loader
from ftcli.errors import UserError
from ftcli.evaluation.decoding import left_padded
from ftcli.methods.peft import Peft
from ftcli.models.causal_lm import CausalLM
from ftcli.objectives.causal_lm import CausalLM as Objective

from . import zoo

LIMIT = 1e-4
LENGTHS = (21, 9, 30, 5, 13, 13, 26, 7)
EQUAL = (17, 17, 17, 17)
PROMPTS, NEW_TOKENS = (11, 4, 19), 5
#: Name of a mode -> lengths of its documents, and how they become batches.
MODES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "none, 1 row": (LENGTHS[:3], {"packing": "none", "batch_size": 1}),
    "none, 4 rows": (LENGTHS, {"packing": "none", "batch_size": 4}),
    "none, 4 equal rows": (EQUAL, {"packing": "none", "batch_size": 4}),
    "flat": (LENGTHS, {"packing": "flat", "batch_size": 4}),
    "bins": (LENGTHS, {"packing": "bins", "batch_size": 2, "max_length": 40}),
}


@dataclass
class Result:
    """One type: whether the library itself can run it, and the outcome of each step."""

    kind: str
    reason: str = ""  # why it was not built
    steps: dict[str, str] = field(default_factory=dict)  # step -> right, refused: .., wrong: .., ..
    experts: str = ""

    @property
    def faults(self) -> dict[str, str]:
        """Steps that end neither right nor in one message."""
        return {k: v for k, v in self.steps.items() if v.startswith(("wrong", "traceback"))}


def examine(kind: str, folder: Path) -> Result:
    """Build the model, and take every step with it."""
    result = Result(kind)
    with quiet():
        try:
            path = zoo.write(kind, folder / "base")
            library = Library(path)
            library.losses(zoo.documents(LENGTHS[:1]))
        except Exception as error:
            result.reason = _line(error)
            return result
        for name in MODES:
            result.steps[name] = outcome(lambda name=name: _mode(path, library, name))
        result.steps["generation"] = outcome(lambda: _generation(path, library))
        result.steps |= _adapters(path, library, folder)
    return result


class Library:
    """The model as transformers loads and runs it, one document at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = self.load()

    def load(self) -> nn.Module:
        """Another instance of it."""
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def losses(self, documents: list[list[int]], model: Any = None) -> list[float]:
        """The model's own loss of each document, nats a token."""
        rows = [torch.tensor([ids]) for ids in documents]
        call: Callable[..., Any] = model or self.model
        return [call(input_ids=x, labels=x, use_cache=False).loss.item() for x in rows]


def _mode(path: Path, library: Library, mode: str) -> float:
    lengths, options = MODES[mode]
    documents = zoo.documents(lengths)
    model = CausalLM(path=str(path)).load("cpu")
    return _largest(losses(model, documents, **options), library.losses(documents))


@torch.no_grad()
def losses(model: nn.Module, documents: list[list[int]], **options: Any) -> list[float]:
    """The mean loss of each document by the product's batches and objective."""
    lengths = [len(d) for d in documents]
    learned = [np.arange(n) > 0 for n in lengths]  # nothing predicts the first token
    tokens: Any = SimpleNamespace(
        ids=np.concatenate([np.asarray(d, dtype=np.int32) for d in documents]),
        learned=np.concatenate(learned),
        offsets=np.cumsum([0, *lengths]),
        lengths=np.asarray(lengths),
    )
    found: dict[int, float] = {}
    for batch in Loader(tokens, shuffle=False, **options):
        result = Objective(chunk_size=16)(model, batch)
        for number, row in enumerate(batch["rows"]):
            found[row] = result.values[result.sequence == number].mean().item()
    return [found[row] for row in range(len(documents))]


@torch.no_grad()
def _generation(path: Path, library: Library) -> float:
    """Log-probabilities of what a left-padded batch says against those of one prompt alone."""
    prompts = zoo.documents(PROMPTS)
    model: Any = CausalLM(path=str(path)).load("cpu")
    ids, mask = left_padded(prompts, 0)
    ours, scores = _continue(model, ids, mask)
    worst = 0.0
    for row, prompt in enumerate(prompts):
        alone, theirs = _continue(library.model, torch.tensor([prompt]), None)
        same = alone[0].tolist() == ours[row].tolist()
        worst = max(worst, (scores[row] - theirs[0]).abs().max().item() if same else float("inf"))
    return worst


def _continue(model: Any, ids: torch.Tensor, mask: Any) -> tuple[torch.Tensor, torch.Tensor]:
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids) if mask is None else mask,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = out.sequences[:, ids.shape[1] :]
    each = torch.stack(out.logits, 1).log_softmax(-1)
    return new, each.gather(2, new[..., None])[..., 0]


def _adapters(path: Path, library: Library, folder: Path) -> dict[str, str]:
    """Train nothing, but move every trained tensor; then save, load elsewhere, and merge."""
    steps: dict[str, str] = {}
    documents = zoo.documents(LENGTHS[:4])
    method = Peft(r=4)
    options: dict[str, Any] = {"packing": "none", "batch_size": 1}

    def prepared() -> nn.Module:
        model = method.prepare(CausalLM(path=str(path)).load("cpu")).eval()
        generator = torch.Generator().manual_seed(1)
        for p in (p for p in model.parameters() if p.requires_grad):
            p.data.copy_(torch.randn(p.shape, generator=generator) * 0.1)
        return model

    kept: dict[str, Any] = {}

    def add() -> float:
        kept["model"] = prepared()
        kept["losses"] = losses(kept["model"], documents, **options)
        moved = _largest(kept["losses"], library.losses(documents))
        assert moved > 1e-3, "the adapter changes nothing"
        return 0.0

    def reload() -> float:
        from peft import PeftModel

        method.save(kept["model"], folder / "adapter")
        plain = PeftModel.from_pretrained(library.load(), folder / "adapter").eval()
        return _largest(library.losses(documents, plain), kept["losses"])

    def merge() -> float:
        merged: Any = method.merge(kept["model"])
        merged.save_pretrained(folder / "merged")
        return _largest(Library(folder / "merged").losses(documents), kept["losses"])

    steps["lora"] = outcome(add)
    if steps["lora"] == "right":
        steps["plain peft"] = outcome(reload)
        steps["merge"] = outcome(merge)
    return steps


def outcome(step: Callable[[], float]) -> str:
    """What became of a step whose difference should be small."""
    try:
        difference = step()
    except UserError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"traceback: {_line(error)}"
    return "right" if difference <= LIMIT else f"wrong: {difference:.2g}"


def _largest(ours: list[float], theirs: list[float]) -> float:
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    return float("inf") if any(np.isnan(gaps)) else max(gaps)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices of libraries about small models."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
