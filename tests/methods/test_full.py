"""Training the model's own weights: all of them, or what patterns name."""

import pytest
import torch

from ftcli.core.errors import Problems, UserError
from ftcli.methods.full import Full

from .tiny import load, trainable, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "tiny_llama", bias=True)


def test_everything_is_trained_and_is_the_state(folder):
    method = Full()
    model = method.prepare(load(folder))
    names = {name for name, _ in model.named_parameters()}
    assert trainable(model).keys() == method.get_trained_tensors(model).keys() == names


def test_tied_weights_are_kept_once(folder):
    from ftcli.models.causal_lm import CausalLMSource

    method = Full()
    state = method.get_trained_tensors(
        method.prepare(CausalLMSource("asset:llama_mini").load("cpu"))
    )
    assert "model.embed_tokens.weight" in state and "lm_head.weight" not in state


def test_patterns_train_only_what_they_match(folder):
    model = Full(train=["*.bias", "model.norm.weight"]).prepare(load(folder))
    assert all(name.endswith(".bias") or name == "model.norm.weight" for name in trainable(model))
    assert len(trainable(model)) == 2 * 4 + 1


def test_a_pattern_that_matches_nothing_is_refused(folder):
    with pytest.raises(UserError, match=r"'\*\.bais' matches 0 of \d+ parameters of tiny_llama"):
        Full(train=["*.bais"]).prepare(load(folder))
    with pytest.raises(Problems):
        Full(train=["*.bais", "nroms"]).prepare(load(folder))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_is_refused(folder, quantization):
    with pytest.raises(UserError, match="quantised weights have no gradient") as caught:
        Full().prepare(load(folder, quantization))
    assert caught.value.where == "model.quantization" and "method=lora" in caught.value.fix


def test_loading_keeps_the_tensors_that_the_optimizer_holds(folder):
    method = Full()
    model = method.prepare(load(folder))
    before = {name: p.data_ptr() for name, p in trainable(model).items()}
    method.load_trained_tensors(
        model, {n: torch.ones_like(t) for n, t in method.get_trained_tensors(model).items()}
    )
    assert {name: p.data_ptr() for name, p in trainable(model).items()} == before
    assert all(bool((p == 1).all()) for p in trainable(model).values())
