"""A name that matches no module is refused, with the nearest name that would match."""

import pytest

from ftcli.core.errors import Problems, UserError
from ftcli.methods.peft import Peft
from ftcli.models.causal_lm import CausalLMSource

from .tiny import load, trainable, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "tiny_llama")


def problem(folder, **options) -> str:
    with pytest.raises(UserError) as caught:
        Peft(**options).prepare(load(folder))
    return str(caught.value)


def test_the_message_of_the_shipped_model():
    with pytest.raises(UserError) as caught:
        Peft(target_modules=["q_porj", "v_proj"]).prepare(
            CausalLMSource("asset:llama_mini").load("cpu")
        )
    assert str(caught.value) == (
        "method.target_modules  'q_porj' matches 0 of 56 linear layers of llama_mini "
        "('q_proj' would match 8).\n  fix: method.target_modules=[q_proj,v_proj]; "
        "method.targets_strict=false allows it"
    )


def test_every_name_that_matches_nothing_is_reported_at_once(folder):
    with pytest.raises(Problems) as caught:
        Peft(target_modules=["q_porj", "gate", "o_proj"]).prepare(load(folder))
    assert [p.what.split()[0] for p in caught.value.problems] == ["'gate'", "'q_porj'"]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"target_modules": r".*\.q_porj"}, "target_modules"),
        ({"modules_to_save": ["lm_haed"]}, "modules_to_save"),
        ({"exclude_modules": ["up_porj"]}, "exclude_modules"),
        ({"rank_pattern": {"q_porj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_porj": 4}}, "alpha_pattern"),
    ],
)
def test_each_option_that_names_modules_is_checked(folder, options, key):
    assert problem(folder, **options).startswith(f"method.{key}  ")


def test_a_name_outside_the_linears_is_suggested_too(folder):
    assert "('lm_head' would match 1)" in problem(folder, modules_to_save=["lm_haed"])


def test_nothing_near_lists_what_there_is(folder):
    text = problem(folder, target_modules=["zzz"])
    assert "(there are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj)" in text
    assert "method.target_modules=all-linear" in text


def test_what_matches_is_let_through(folder):
    for options in (
        {"target_modules": r".*layers\.1\..*proj"},
        {"target_modules": ["layers.0.self_attn.q_proj"]},
        {"modules_to_save": ["lm_head"], "rank_pattern": {"self_attn.q_proj": 4}},
        {"exclude_modules": ["lm_head", "down_proj"]},
    ):
        assert trainable(Peft(**options).prepare(load(folder)))


def test_not_strict_trains_what_does_match(folder):
    model = Peft(target_modules=["q_porj", "v_proj"], targets_strict=False).prepare(load(folder))
    assert len(trainable(model)) == 4 and all("v_proj" in name for name in trainable(model))


@pytest.mark.parametrize("options", [{"target_modules": "["}, {"rank_pattern": {"(": 4}}])
@pytest.mark.parametrize("strict", [True, False])
def test_a_pattern_that_is_none_is_named(folder, options, strict):
    assert "is not a valid regular expression" in problem(folder, targets_strict=strict, **options)
