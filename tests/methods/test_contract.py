"""Every configuration in configs/method has the capabilities that it declares, on every kind of model it names."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy, count_parameters

from .options import capabilities, capability, kinds, storages
from .tiny import (
    OTHERS,
    WRITERS,
    load,
    logits,
    loss_of,
    method,
    names,
    train,
    trainable,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    method: str
    kind: str
    stored: str

    def __str__(self) -> str:
        return f"{self.method}-{self.kind}-{'fp32' if self.stored == 'none' else self.stored}"

    @property
    def quantised(self) -> bool:
        return self.stored != "none"


CASES = [Case(n, kind, stored) for n in names() for kind in kinds(n) for stored in storages(n)]
PLAIN_ONLY = [name for name in names() if "nf4" not in storages(name)]


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A function that gives the untouched model of a case: a copy of it, which takes a tenth of loading."""
    folders = {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in WRITERS.items()}
    loaded = cache(load)

    def get(case: Case, dtype: str = "float32"):
        return copy.deepcopy(loaded(folders[case.kind], case.stored, dtype, case.kind))

    return get


@pytest.fixture(scope="module", params=CASES, ids=str)
def run(request, base):
    """A method prepared on a tiny model and trained, once for all tests of the case."""
    case, model = request.param, base(request.param)
    before, packed = logits(model), packed_bytes(model)
    torch.manual_seed(1)
    how = method(case.method, case.kind)
    model = how.prepare(model)
    start, first = logits(model), {n: p.detach().clone() for n, p in trainable(model).items()}
    train(model, optimizer=capabilities(case.method).get("optimizer", "adamw"))
    moved = {n for n, p in trainable(model).items() if not torch.equal(p, first[n])}
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    return SimpleNamespace(
        case=case, method=how, model=model, before=before, start=start, packed=packed,
        after=logits(model), first=first, moved=moved, frozen_with_gradient=frozen,
    )  # fmt: skip


def packed_bytes(model) -> dict[str, torch.Tensor]:
    """Quantised weights, under the names they have without adapters."""
    named = Anatomy(model).linears
    return {li.name: li.module.weight.detach().clone() for li in named if li.kind == "4bit"}


def again(run, base, dtype: str = "float32"):
    """The same method on a fresh base, with other random numbers."""
    torch.manual_seed(2)
    how = copy.deepcopy(run.method)
    return how, how.prepare(base(run.case, dtype))


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value where that is more than 1."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


def test_gradients_reach_exactly_what_is_declared_trainable(run):
    assert run.moved == run.first.keys() and run.moved
    assert run.frozen_with_gradient == []
    assert all(p.grad is not None for p in trainable(run.model).values())
    assert furthest(run.after, run.start) > 1e-4


def test_starts_as_the_base_where_declared(run):
    if capabilities(run.case.method).get("identity", True):  # until_setup: a run changes it then
        assert furthest(run.start, run.before) < 2e-6  # rounding of an exact identity: SVD, QR
    else:
        assert furthest(run.start, run.before) > 1e-4


def test_trains_as_many_parameters_as_declared(run):
    declared, count = (
        capabilities(run.case.method),
        count_parameters(run.model, trainable_only=True),
    )
    assert count == sum(p.numel() for p in run.first.values())
    if "trainable" in declared and run.case.kind == "llama":
        assert count == declared["trainable"]
    each = re.fullmatch(r"(.+) summed over targets", declared.get("formula", ""))
    if each:
        assert count == summed(each[1], run.model)


def summed(formula: str, model) -> float:
    """A formula in `in`, `out` and numbers of the adapter's configuration, over its layers."""
    config, total = model.peft_config["default"], 0
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    expression = re.sub(r"\bin\b", "in_", formula)
    layers = {m for m in model.modules() if isinstance(m, BaseTunerLayer)}
    for linear in Anatomy(model).linears:
        if any(layer.get_base_layer() is linear.module for layer in layers):
            known |= {"in_": linear.in_features, "out": linear.out_features}
            total += eval(expression, {"__builtins__": {"min": min, "max": max}}, known)
    return total


def test_state_round_trip_is_bit_equal_and_in_place(run, base):
    how, model = again(run, base)
    objects = {n: id(p) for n, p in trainable(model).items()}
    saved = {n: t.clone() for n, t in run.method.get_trained_tensors(run.model).items()}
    how.load_trained_tensors(model, saved)
    assert {n: id(p) for n, p in trainable(model).items()} == objects  # the optimizer holds them
    assert all(torch.equal(p, trainable(run.model)[n]) for n, p in trainable(model).items())
    assert torch.equal(logits(model), run.after)


def test_a_foreign_tensor_is_refused(run):
    tensors = dict(run.method.get_trained_tensors(run.model))
    with pytest.raises(UserError, match="unknown tensor 'lm_tail.weight'"):
        run.method.load_trained_tensors(run.model, tensors | {"lm_tail.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="lacks"):
        run.method.load_trained_tensors(run.model, dict(list(tensors.items())[1:]))


def test_what_is_saved_loads_without_ftcli(run, base, tmp_path):
    run.method.save(run.model, tmp_path)
    torch.manual_seed(3)
    if capability(run.case.method, "artefact") == "model":
        model = plain(run.case.kind, tmp_path)
    else:
        assert run.method.describe()["peft_type"] == run.model.peft_config["default"].peft_type
        model = peft.PeftModel.from_pretrained(base(run.case), tmp_path)
    assert torch.equal(logits(model), run.after)


def plain(kind: str, folder: Path):
    """A folder of transformers, read by transformers."""
    loader = OTHERS.get(kind, (AutoModelForCausalLM, None))[0]
    return loader.from_pretrained(folder, dtype=torch.float32)


def test_merged_equals_unmerged(run, base, tmp_path):
    how, model = again(run, base)
    how.load_trained_tensors(model, run.method.get_trained_tensors(run.model))
    if run.case.quantised or not capability(run.case.method, "mergeable"):
        with pytest.raises(UserError, match="cannot be merged|lose the adapter to rounding"):
            how.merge(model)
        return
    merged = how.merge(model)
    assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
    assert furthest(logits(merged), run.after) < 1e-5
    merged.save_pretrained(tmp_path)  # what has no place in the base's own class would be lost
    assert torch.equal(logits(plain(run.case.kind, tmp_path)), logits(merged))


def test_packed_bytes_stay(run):
    after = packed_bytes(run.model)
    assert after.keys() == run.packed.keys() and bool(after) == run.case.quantised
    assert all(torch.equal(after[name], packed) for name, packed in run.packed.items())


def gradients(model, *parts: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of all rows, part by part."""
    model.train()
    model.zero_grad()
    loss = torch.zeros(())
    for rows in parts:
        share = loss_of(model, rows=rows)
        share.backward()
        loss = loss + share.detach()
    return loss, {n: p.grad.clone() for n, p in trainable(model).items()}


def test_recomputing_and_accumulating_change_no_gradient(run, base):
    how, model = again(run, base)
    how.load_trained_tensors(model, run.method.get_trained_tensors(run.model))
    loss, whole = gradients(model, slice(None))
    scale = max(1.0, max(g.abs().max().item() for g in whole.values()))

    def same(other) -> bool:
        near = all((other[1][n] - g).abs().max() < 1e-5 * scale for n, g in whole.items())
        return bool((other[0] - loss).abs() < 1e-5) and near

    assert same(gradients(model, slice(0, 1), slice(1, 2)))
    if capabilities(run.case.method).get("gradient_checkpointing", True):
        model.activation_checkpointing_enable({"use_reentrant": False})
        assert same(gradients(model, slice(None)))


def test_on_a_half_precision_base_everything_trained_is_in_the_state(run, base):
    if run.case.quantised:
        pytest.skip("the base is not in half precision")
    torch.manual_seed(1)
    how = method(run.case.method, run.case.kind)
    model = how.prepare(base(run.case, "bfloat16"))
    other_how, other = again(run, base, "bfloat16")
    train(model, bf16=True, optimizer=capabilities(run.case.method).get("optimizer", "adamw"))
    other_how.load_trained_tensors(other, how.get_trained_tensors(model))
    assert torch.equal(logits(other, bf16=True), logits(model, bf16=True))
    assert all(torch.equal(p, trainable(other)[n]) for n, p in trainable(model).items())


@pytest.mark.parametrize("name", PLAIN_ONLY)
def test_what_cannot_stand_on_quantised_weights_says_so(name, base):
    kind = kinds(name)[0]
    with pytest.raises(UserError, match="quantised|PiSSA under float32"):
        method(name, kind).prepare(base(Case(name, kind, "nf4")))


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "oft", "miss"])
def test_adapter_weights_are_float32_on_a_half_precision_base(name, base):
    model = method(name).prepare(base(Case(name, "llama", "none"), "bfloat16"))
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    train(model, steps=1)
    assert torch.isfinite(loss_of(model))
