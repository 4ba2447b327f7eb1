"""WeLore in a model: what is factored, freed and trained; saved, merged and refused."""

from __future__ import annotations

import peft
import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.methods.left_out import list_left_out
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.welore.method import DENSE, welore_layers
from tests.methods.tiny import load, logits, loss_of, method, train, trainable, write_llama

LOW = "model.layers.0.mlp.gate_proj", "model.layers.1.self_attn.o_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama two of whose matrices are of low rank: 9 of 128, and 5 of 128."""
    folder = write_llama(tmp_path_factory.mktemp("llama"))
    model = load(folder)
    torch.manual_seed(2)
    for name, rank in zip(LOW, (9, 5), strict=True):
        weight = model.get_submodule(name).weight
        product = torch.randn(weight.shape[0], rank) @ torch.randn(rank, weight.shape[1])
        weight.data = 0.02 * product / rank**0.5
    model.save_pretrained(folder)
    return folder


def prepared(folder, dtype="float32", **options):
    torch.manual_seed(1)
    return method("welore", **{"tau": 1e-3} | options).prepare(load(folder, dtype=dtype))


def test_the_planted_matrices_are_factored_and_alone_trained(folder):
    model = prepared(folder)
    layers = welore_layers(model.get_base_model())
    assert {name: layer.kept["default"] for name, layer in layers.items()} == {LOW[0]: 9, LOW[1]: 5}
    parts = {"welore_U.default", "welore_V.default"}
    expected = {f"base_model.model.{name}.{part}" for name in LOW for part in parts}
    assert trainable(model).keys() == expected
    assert sum(p.numel() for p in trainable(model).values()) == 9 * (128 + 192) + 5 * (128 + 128)
    assert all(layer.get_base_layer().weight.numel() == 0 for layer in layers.values())
    assert (logits(model) - logits(load(folder))).abs().max() < 1e-5  # exactly of these ranks
    before, first = {n: t.clone() for n, t in model.state_dict().items()}, loss_of(model).item()
    train(model)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == expected and loss_of(model).item() < first


def test_the_rest_alone_or_everything_can_be_trained_instead(folder):
    dense = prepared(folder, train="dense")
    assert len(trainable(dense)) == 12 and all("welore_W" in name for name in trainable(dense))
    assert len(trainable(prepared(folder, train="all"))) == 12 + 4
    assert torch.equal(logits(dense), logits(prepared(folder)))  # the same compressed model
    before = {n: t.clone() for n, t in dense.state_dict().items()}
    train(dense)
    moved = {n for n, t in dense.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == trainable(dense).keys()


def test_left_out_matrices_name_the_reason_and_the_achieved_reduction_is_logged(folder, caplog):
    how = method("welore", tau=1e-3)
    model = how.prepare(load(folder))
    removed, ranks = 119 + 123, 10 * 128 + 4 * 64
    assert f"2 of 14 matrices, which removes {removed / ranks:.1%} of all ranks" in caplog.text
    reasons = {item.reason for item in list_left_out(model, how.left_out)}
    assert reasons == {DENSE}


@pytest.mark.parametrize("train_what", ["factored", "dense", "all"])
def test_a_saved_adapter_holds_all_it_needs_and_merges_to_dense_weights(
    folder, tmp_path, train_what
):
    how = method("welore", tau=1e-3, train=train_what)
    model = how.prepare(load(folder))
    train(model)
    expected = logits(model)
    how.save(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert torch.equal(logits(loaded), expected)
    merged = how.merge(model)
    assert type(merged.get_submodule(LOW[0])) is torch.nn.Linear
    assert merged.get_submodule(LOW[0]).weight.shape == (192, 128)
    assert (logits(merged) - expected).abs().max() < 1e-5


def test_merging_is_undone_to_the_bit(folder):
    model = prepared(folder)
    train(model)
    expected = logits(model)
    model.merge_adapter()
    assert (logits(model) - expected).abs().max() < 1e-5
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)


def test_there_is_no_base_to_switch_back_to(folder):
    model = prepared(folder)
    with model.disable_adapter(), pytest.raises(ValueError, match="nothing to switch back to"):
        logits(model)
    with pytest.raises(ValueError, match="one adapter of WeLore"):
        model.add_adapter("second", model.peft_config["default"])
    with pytest.raises(ValueError, match="merge the adapter instead"):
        model.unload()
    assert not method("welore").keeps_base


def test_on_a_half_precision_base_factors_are_float32_unless_told_otherwise(folder):
    assert {p.dtype for p in trainable(prepared(folder, "bfloat16")).values()} == {torch.float32}
    model = prepared(folder, "bfloat16", autocast_adapter_dtype=False)
    assert {p.dtype for p in trainable(model).values()} == {torch.bfloat16}
    assert logits(model).dtype == torch.bfloat16


def test_quantised_bases_and_wrong_options_are_refused(folder):
    with pytest.raises(UserError, match="this base is quantised"):
        method("welore").prepare(load(folder, "nf4"))
    with pytest.raises(UserError, match=r"target_rank_reduction=1.2 is not between 0 and 1"):
        method("welore", target_rank_reduction=1.2).prepare(load(folder))
    with pytest.raises(UserError, match="allocation='even' is unknown"):
        method("welore", allocation="even").prepare(load(folder))
    with pytest.raises(UserError, match="of 14 matrices none is factored, so nothing is trained"):
        prepared(folder, min_ratio=0.99)


def test_plans_without_weights_take_an_equal_share_of_every_matrix():
    meta = CausalLMSource("owner/name", architecture="llama2_7b").build_meta_model()
    model = method("welore").prepare(meta)
    assert sum(p.numel() for p in trainable(model).values()) == 2048 * 2_498_560
    assert all(
        layer.get_base_layer().weight.numel() == 0 for layer in welore_layers(model).values()
    )
