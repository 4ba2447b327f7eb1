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
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from ftcli.core.batch_layout import BatchLayout
from ftcli.core.errors import UserError
from ftcli.data.loader import Loader
from ftcli.methods.left_out import LeftOutWeights, list_left_out
from ftcli.methods.peft import Peft
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.decoding import pad_left
from ftcli.models.decoding_check import Decoding, find_decoding
from ftcli.models.experts import find_expert_weights
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.trainer.context import check_requires_grad

from . import zoo

LIMIT = 1e-4
LENGTHS = (21, 9, 30, 5, 13, 13, 26, 7)
EQUAL = (17, 17, 17, 17)
PROMPTS, NEW_TOKENS = (11, 4, 19), 5
#: Name of a mode -> packing that is asked for, lengths of its documents, documents or bins a batch.
MODES: dict[str, tuple[str, tuple[int, ...], int]] = {
    "none, 1 row": ("none", LENGTHS[:3], 1),
    "none, 4 rows": ("none", LENGTHS, 4),
    "none, 4 equal rows": ("none", EQUAL, 4),
    "flat": ("flat", LENGTHS, 4),
    "bins": ("bins", LENGTHS, 2),
    "auto": ("auto", LENGTHS, 4),
}
MAX_LENGTH = 40  # tokens of a bin, and the most that a row has


@dataclass
class Result:
    """One type: whether the library itself can run it, and the outcome of each step."""

    kind: str
    reason: str = ""  # why it was not built
    steps: dict[str, str] = field(default_factory=dict)  # step -> right, refused: .., wrong: .., ..
    auto: BatchLayout | None = None  # what data.packing=auto becomes
    decoding: Decoding | None = None  # how answers are batched
    left_out: list[LeftOutWeights] = field(default_factory=list)
    limit: float = LIMIT  # nats a token
    experts: int = 0  # stacked weights of experts
    looks_ahead: bool = False  # an earlier prediction changes with a later token

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
            result.looks_ahead = library.looks_ahead()
            result.limit = library.limit()
        except Exception as error:
            result.reason = _line(error)
            return result
        for name in MODES:
            result.steps[name] = outcome(
                lambda name=name: _mode(path, library, name, result), result
            )
        result.steps["generation"] = outcome(lambda: _generation(path, library, result), result)
        _adapters(path, library, folder, result)
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
        """The mean loss of each document by the model's own logits, nats a token.

        Its own `loss` is the same where the class shifts labels; those of decoders of translation
        models (Bart, Marian, ...) do not, and predict the token that they have just read.
        """
        call: Callable[..., Any] = model or self.model
        found = []
        for ids in documents:
            logits = call(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            found.append(cross_entropy(logits[-len(ids) : -1], torch.tensor(ids[1:])).item())
        return found

    @torch.no_grad()
    def limit(self) -> float:
        """`LIMIT`, or more where the last bit of each weight already moves the losses by as much."""
        documents, other = zoo.documents(LENGTHS[:4]), self.load()
        for weight in other.parameters():
            weight.copy_(torch.nextafter(weight, torch.full_like(weight, torch.inf)))
        return max(LIMIT, 20 * _largest(self.losses(documents), self.losses(documents, other)))

    @torch.no_grad()
    def looks_ahead(self) -> bool:
        """Whether an earlier prediction changes with the last token."""
        ids = torch.tensor(zoo.documents([20]))
        other = ids.clone()
        other[0, -1] = 5 + int(ids[0, -1] == 5)
        one, two = (self.model(input_ids=x, use_cache=False).logits[:, :-1] for x in (ids, other))
        return bool((one - two).abs().max() > 1e-4)


def _load(path: Path, packing: str) -> tuple[Any, BatchLayout]:
    """The model as a run loads it, and how it is to be given its rows."""
    source = CausalLMSource(path=str(path))
    model = source.load("cpu")
    return model, source.select_batch_layout(model, packing, MAX_LENGTH, NextTokenPrediction())


def _mode(path: Path, library: Library, mode: str, result: Result) -> float:
    packing, lengths, batch_size = MODES[mode]
    documents = zoo.documents(lengths)
    model, batch_layout = _load(path, packing)
    if packing == "auto":
        result.auto = batch_layout
    return _largest(losses(model, documents, batch_size, batch_layout), library.losses(documents))


@torch.no_grad()
def losses(
    model: nn.Module, documents: list[list[int]], batch_size: int, batch_layout: BatchLayout
) -> list[float]:
    """The mean loss of each document by the product's batches and objective."""
    lengths = [len(d) for d in documents]
    learned = [np.arange(n) > 0 for n in lengths]  # nothing predicts the first token
    tokens: Any = SimpleNamespace(
        ids=np.concatenate([np.asarray(d, dtype=np.int32) for d in documents]),
        loss_mask=np.concatenate(learned),
        offsets=np.cumsum([0, *lengths]),
        lengths=np.asarray(lengths),
    )
    loader = Loader(
        tokens,
        batch_size,
        batch_layout.packing,
        MAX_LENGTH,
        shuffle=False,
        document_isolation=batch_layout.document_isolation,
    )
    found: dict[int, float] = {}
    for batch in loader:
        result = NextTokenPrediction(chunk_size=16)(model, batch)
        for number, row in enumerate(batch["indices"]):
            found[row] = result.values[result.sequence_index == number].mean().item()
    return [found[row] for row in range(len(documents))]


@torch.no_grad()
def _generation(path: Path, library: Library, result: Result) -> float:
    """Log-probabilities of what batches of prompts are answered with, against each text alone."""
    prompts = zoo.documents(PROMPTS)
    model, _ = _load(path, "auto")
    result.decoding = find_decoding(model)
    worst = 0.0
    for chosen in result.decoding.group_prompts([len(p) for p in prompts], len(prompts)):
        answers, scores = _continue(model, [prompts[i] for i in chosen], result.decoding.cache)
        for number, answer, ours in zip(chosen, answers, scores, strict=True):
            worst = max(worst, _from_alone(library.model, prompts[number], answer, ours))
    return worst


def _from_alone(model: Any, prompt: list[int], answer: torch.Tensor, scores: torch.Tensor) -> float:
    """How far scores are from the library's for this prompt alone: by a forward pass, or by writing.

    Both are the library's own; they differ by 3e-4 in the cache of Zamba 2.
    """
    text = torch.cat([torch.tensor(prompt), answer])[None]
    logits = model(input_ids=text, use_cache=False).logits[0, -NEW_TOKENS - 1 : -1]
    forward = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
    gap = (scores - forward).abs().max().item()
    if gap <= LIMIT:
        return gap
    alone, written = _continue(model, [prompt], True)
    same = alone[0].tolist() == answer.tolist()
    return min(gap, (scores - written[0]).abs().max().item() if same else gap)


def _continue(
    model: Any, prompts: list[list[int]], cache: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """New tokens [B, n] of a left-padded batch, and the log-probabilities they were taken with."""
    ids, mask = pad_left(prompts, 0)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        use_cache=cache,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = out.sequences[:, ids.shape[1] :]
    each = torch.stack(out.logits, 1).log_softmax(-1)
    return new, each.gather(2, new[..., None])[..., 0]


def _adapters(path: Path, library: Library, folder: Path, result: Result) -> None:
    """Move every tensor that gets a gradient; then save, load with plain PEFT, and merge."""
    documents = zoo.documents(LENGTHS[:4])
    method = Peft(r=4)
    kept: dict[str, Any] = {}

    def add() -> float:
        model, batch_layout = _load(path, "none")
        kept["model"] = method.prepare(model).eval()
        result.experts = len(find_expert_weights(model))
        result.left_out = list_left_out(kept["model"], method.left_out)
        _move(kept["model"], documents[2], batch_layout)
        kept["losses"] = losses(kept["model"], documents, 1, batch_layout)
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

    result.steps["lora"] = outcome(add, result)
    if result.steps["lora"] == "right":
        result.steps["plain peft"] = outcome(reload, result)
        result.steps["merge"] = outcome(merge, result)


def _move(model: Any, ids: list[int], batch_layout: BatchLayout) -> None:
    """Give every trained tensor other values, but those of parts that a text does not reach."""
    generator = torch.Generator().manual_seed(1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for p in trained.values():
        p.data.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    row = torch.tensor([ids])
    batch = {"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)}
    batch["position_ids"] = torch.arange(len(ids))[None]
    loss = NextTokenPrediction()(
        model, batch | {"document_isolation": batch_layout.document_isolation}
    ).values.mean()
    check_requires_grad(loss)
    loss.backward()
    unused = [name for name, p in trained.items() if p.grad is None]
    assert len(unused) < len(trained), "no adapter is used"
    for name in unused:
        trained[name].data.zero_()  # as they would be after training
    model.zero_grad()


def outcome(step: Callable[[], float], result: Result) -> str:
    """What became of a step whose difference should be small."""
    try:
        difference = step()
    except UserError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"traceback: {_line(error)}"
    return "right" if difference <= result.limit else f"wrong: {difference:.2g}"


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
