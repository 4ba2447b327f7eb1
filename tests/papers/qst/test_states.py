"""Hidden states cached across epochs: equal results, no pass through the base, a size limit, files."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ftcli.models.anatomy import Anatomy
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.papers.qst.states import HiddenStates, Store, hash_backbone
from ftcli.papers.qst.tuner import side_layer
from ftcli.run.build import build_run
from tests.methods.small_run import small_run
from tests.methods.tiny import load, write_gpt2, write_llama
from tests.methods.tiny_runs import JobBuilder
from tests.papers.qst.test_method import generate, perturb, prepare_model

WRITERS = {"llama": write_llama, "gpt2": write_gpt2}


@pytest.fixture(scope="module", params=WRITERS)
def model(request, tmp_path_factory):
    path = WRITERS[request.param](tmp_path_factory.mktemp(request.param))
    return perturb(prepare_model(load(path, kind=request.param))).eval()


def packed(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return batch([torch.randint(3, 100, (n,), generator=generator) for n in lengths])


def batch(documents):
    ids = torch.cat(documents)[None]
    lengths = torch.tensor([len(d) for d in documents])
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return {"input_ids": ids, "labels": ids, "position_ids": positions, "lengths": lengths}


def padded(lengths):
    width, row = max(lengths), packed(lengths)
    parts = row["input_ids"][0].split(lengths)
    ids = torch.stack([torch.nn.functional.pad(p, (0, width - len(p))) for p in parts])
    mask = torch.stack([torch.arange(width) < n for n in lengths]).long()
    labels = ids.masked_fill(mask == 0, -100)
    positions = torch.arange(width).expand_as(ids)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask}


class BlockCounter:
    """Counts the calls of a block of the base within a `with` block."""

    def __init__(self, model, store):
        self.layer, self.block, self.runs = side_layer(model), Anatomy(model).blocks[0][1], 0
        self.layer.states = HiddenStates(store)

    def __enter__(self):
        self.hook = self.block.register_forward_hook(self.count)
        return self

    def count(self, *_):
        self.runs += 1

    def __exit__(self, *_):
        self.hook.remove()
        self.layer.states = None


@pytest.mark.parametrize("rows", [packed([7, 12, 5]), padded([7, 12, 5])], ids=["packed", "padded"])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_losses_and_gradients_are_the_same_and_the_base_runs_once(model, rows, place, tmp_path):
    def step():
        model.zero_grad()
        losses = NextTokenPrediction()(model, rows).values
        losses.sum().backward()
        return losses.detach(), side_layer(model).qst_side["default"].up.weight.grad.clone()

    plain = step()
    store = Store(1e9, tmp_path if place == "disk" else None)
    with BlockCounter(model, store) as counter:
        kept = [step()]
        before = counter.runs
        kept.append(step())
        assert counter.runs == before and store.hits >= 3
    for losses, gradient in kept:
        assert (losses - plain[0]).abs().max() < 1e-6 * plain[0].max()
        assert (gradient - plain[1]).abs().max() < 1e-6 * plain[1].abs().max().clamp(min=1)


def test_a_document_is_found_in_whatever_batch_it_comes(model):
    first, second, third = (packed([n], seed=n)["input_ids"][0] for n in (9, 14, 6))
    mixed = batch([third, first])
    expected = NextTokenPrediction()(model, mixed).values.detach()
    store = Store(1e9)
    with torch.no_grad(), BlockCounter(model, store) as counter:
        NextTokenPrediction()(model, batch([first, second]))
        NextTokenPrediction()(
            model, mixed
        )  # `third` and its padding are computed, `first` is stored
        runs, misses = counter.runs, store.misses
        repeated = NextTokenPrediction()(model, batch([third, first])).values
        assert (counter.runs, store.misses) == (runs, misses)
    assert (repeated - expected).abs().max() < 1e-5


def test_the_same_tokens_at_other_positions_are_another_document(model):
    rows = packed([8])
    moved = rows | {"position_ids": rows["position_ids"] + 3}
    expected = [NextTokenPrediction()(model, r).values.detach() for r in (rows, moved)]
    with torch.no_grad(), BlockCounter(model, Store(1e9)):
        for _ in range(2):
            for r, values in zip((rows, moved), expected, strict=True):
                assert (NextTokenPrediction()(model, r).values - values).abs().max() < 1e-5


def test_what_exceeds_the_limit_is_computed_each_time(model):
    rows, store = packed([10, 10, 44]), Store(2 * 2 * 10 * 128 * 4)  # two documents of ten tokens
    expected = NextTokenPrediction()(model, rows).values.detach()
    with torch.no_grad(), BlockCounter(model, store) as counter:
        for _ in range(3):
            assert (NextTokenPrediction()(model, rows).values - expected).abs().max() < 1e-5
        assert store.hits == 4 and store.bytes == store.limit
        assert counter.runs == 3


def test_generation_does_not_ask_for_kept_states(model):
    expected, store = generate(model), Store(1e9)
    with BlockCounter(model, store):
        assert torch.equal(generate(model), expected)
    assert (store.hits, store.misses) == (0, 0)


def test_files_are_found_by_another_run_of_the_same_base_only(tmp_path):
    path = write_llama(tmp_path / "llama")
    method_and_model = [with_states(path, tmp_path) for _ in range(2)]
    stores = []
    for method, model in method_and_model:
        method.setup(small_run(model, None))
        store = side_layer(model).states.store
        NextTokenPrediction()(model, packed([7, 12]))
        stores.append((store.hits, store.misses))
        method.on_train_end(SimpleNamespace(model=model))
        assert side_layer(model).states is None
    assert stores == [(0, 3), (3, 0)]  # the third is what fills the row up
    backbone = side_layer(method_and_model[0][1]).base_layer
    before = hash_backbone(backbone)
    with torch.no_grad():
        backbone.layers[1].mlp.up_proj.weight[0, 0] += 1
    assert hash_backbone(backbone) != before


def with_states(path, root):
    from ftcli.papers.qst.method import Qst

    method = Qst(reduction=4, cache="disk", cache_dir=str(root / "kept"))
    return method, method.prepare(load(path))


def test_a_run_with_kept_states_learns_the_same(tmp_path):
    builder, states = JobBuilder(tmp_path), []
    for place in ("none", "memory"):
        choices = {"method": "qst", "method.cache": place, "data.limit": "8",
                   "trainer.max_steps": "8"}  # fmt: skip
        run = build_run(builder.job(choices).config)
        assert run.trainer.fit(run).state.epoch >= 2
        states.append({name: t.clone() for name, t in run.get_trained_tensors().items()})
    first, reference = states
    assert first.keys() == reference.keys()
    assert all((first[name] - reference[name]).abs().max() < 1e-5 for name in first)
