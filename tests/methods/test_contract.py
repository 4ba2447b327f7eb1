"""Every configuration in configs/method keeps the same promises, on a tiny Llama."""

import copy
from functools import lru_cache
from types import SimpleNamespace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from ftcli.errors import UserError

from .tiny import load, logits, loss_of, method, names, train, trainable, write_llama

#: Methods whose model starts elsewhere than the base: random spectra, bank vectors, prompts.
ELSEWHERE = {"fourierft", "vblora", "c3a", "prompt_tuning", "prefix_tuning", "p_tuning"}
#: PEFT has no 4-bit layer for these, or their initialisation changes the base.
PLAIN_BASE_ONLY = {
    "loha",
    "lokr",
    "hra",
    "delora",
    "pissa",
    "olora",
    "full",
    "bitfit",
    "norm_tuning",
}
QUANTISABLE = [name for name in names() if name not in PLAIN_BASE_ONLY]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A function that gives a method's trained tiny model, trained once for all tests."""
    folders = {
        bias: write_llama(tmp_path_factory.mktemp("llama"), bias=bias) for bias in (False, True)
    }

    @lru_cache
    def get(name: str, quantization: str = "none"):
        folder = folders[name == "bitfit"]
        base = load(folder, quantization)
        before, packed = logits(base), packed_bytes(base)
        torch.manual_seed(1)
        how = method(name)
        model = how.prepare(base)
        start, first = logits(model), {n: p.detach().clone() for n, p in trainable(model).items()}
        train(model)
        moved = {n for n, p in trainable(model).items() if not torch.equal(p, first[n])}
        frozen = [
            n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None
        ]
        return SimpleNamespace(
            folder=folder, method=how, model=model, before=before, start=start, packed=packed,
            after=logits(model), first=first, moved=moved, frozen_with_gradient=frozen,
            quantization=quantization,
        )  # fmt: skip

    return get


def packed_bytes(model) -> dict[str, torch.Tensor]:
    return {
        name.replace(".base_layer", ""): p.detach().clone()
        for name, p in model.named_parameters()
        if not p.dtype.is_floating_point
    }


def again(run):
    """The same method on a fresh base, with other random numbers."""
    torch.manual_seed(2)
    how = copy.deepcopy(run.method)
    return how, how.prepare(load(run.folder, run.quantization))


@pytest.mark.parametrize("name", names())
def test_gradients_reach_exactly_what_is_declared_trainable(prepared, name):
    run = prepared(name)
    assert run.moved == run.first.keys() and run.moved
    assert run.frozen_with_gradient == []
    assert all(p.grad is not None for p in trainable(run.model).values())
    assert (run.after - run.start).abs().max() > 1e-4


@pytest.mark.parametrize("name", names())
def test_starts_as_the_base_where_promised(prepared, name):
    run = prepared(name)
    difference = (run.start - run.before).abs().max().item()
    if name in ELSEWHERE:
        assert difference > 1e-4
    else:
        assert difference < 2e-6  # rounding of an exact identity: SVD, reflections


@pytest.mark.parametrize("name", names())
def test_state_round_trip_is_bit_equal_and_in_place(prepared, name):
    run = prepared(name)
    how, model = again(run)
    objects = {n: id(p) for n, p in trainable(model).items()}
    saved = {n: t.clone() for n, t in run.method.state(run.model).items()}
    how.load_state(model, saved)
    assert {n: id(p) for n, p in trainable(model).items()} == objects  # the optimizer holds them
    assert all(torch.equal(p, trainable(run.model)[n]) for n, p in trainable(model).items())
    assert torch.equal(logits(model), run.after)


@pytest.mark.parametrize("name", names())
def test_a_foreign_tensor_is_refused(prepared, name):
    run = prepared(name)
    tensors = dict(run.method.state(run.model))
    with pytest.raises(UserError, match="unknown tensor 'lm_tail.weight'"):
        run.method.load_state(run.model, tensors | {"lm_tail.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="lacks"):
        run.method.load_state(run.model, dict(list(tensors.items())[1:]))


@pytest.mark.parametrize("name", names())
def test_what_is_saved_loads_without_ftcli(prepared, name, tmp_path):
    run = prepared(name)
    run.method.save(run.model, tmp_path)
    if run.method.artefact == "model":
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    else:
        assert run.method.describe()["peft_type"] == run.model.peft_config["default"].peft_type
        torch.manual_seed(3)
        model = peft.PeftModel.from_pretrained(load(run.folder), tmp_path)
    assert torch.equal(logits(model), run.after)


@pytest.mark.parametrize("name", names())
def test_merged_equals_unmerged(prepared, name):
    run = prepared(name)
    how, model = again(run)
    how.load_state(model, run.method.state(run.model))
    if not how.mergeable:
        with pytest.raises(UserError, match="cannot be merged"):
            how.merge(model)
        return
    merged = how.merge(model)
    assert not hasattr(merged, "peft_config") or not any(
        "lora" in n for n, _ in merged.named_modules()
    )
    assert {n for n, _ in merged.named_parameters()} == {
        n for n, _ in load(run.folder).named_parameters()
    }
    assert (logits(merged) - run.after).abs().max() < 1e-5


@pytest.mark.parametrize("name", QUANTISABLE)
def test_on_an_nf4_base_the_packed_bytes_stay_and_the_rest_learns(prepared, name):
    run = prepared(name, "nf4")
    after = packed_bytes(run.model)
    assert len(after) == len(run.packed) == 14
    assert (
        sum(torch.equal(a, b) for a, b in zip(after.values(), run.packed.values(), strict=True))
        == 14
    )
    assert run.moved == run.first.keys()
    if name not in ELSEWHERE:  # step 0 is the quantised base, and not the plain one
        assert (run.start - run.before).abs().max() < 2e-6
        assert (run.start - prepared("lora").before).abs().max() > 1e-3
    how, model = again(run)
    how.load_state(model, run.method.state(run.model))
    assert torch.equal(logits(model), run.after)


@pytest.mark.parametrize("name", sorted(PLAIN_BASE_ONLY))
def test_what_cannot_stand_on_quantised_weights_says_so(prepared, name):
    base = load(prepared("bitfit" if name == "bitfit" else "lora").folder, "nf4")
    with pytest.raises(UserError, match="quantised|PiSSA under float32"):
        method(name).prepare(base)


@pytest.mark.parametrize("name", names())
def test_on_a_half_precision_base_everything_trained_is_in_the_state(prepared, name):
    folder = prepared(name).folder

    def fresh(seed):
        torch.manual_seed(seed)
        how = method(name)
        return how, how.prepare(load(folder, dtype="bfloat16"))

    (how, model), (other_how, other) = fresh(1), fresh(2)
    train(model, bf16=True)
    other_how.load_state(other, how.state(model))
    assert torch.equal(logits(other, bf16=True), logits(model, bf16=True))
    assert all(torch.equal(p, trainable(other)[n]) for n, p in trainable(model).items())


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "oft", "miss"])
def test_adapter_weights_are_float32_on_a_half_precision_base(prepared, name):
    model = method(name).prepare(load(prepared("lora").folder, dtype="bfloat16"))
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    train(model, steps=1)
    assert torch.isfinite(loss_of(model))
