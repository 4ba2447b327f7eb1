"""CorDA's decomposition by its equations and by PEFT's own, and the context that orients it."""

import copy
from dataclasses import replace

import peft
import pytest
import torch
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda

from ftcli.config import build, compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.methods.shifted import lora_layers, weight_of
from ftcli.models.anatomy import Anatomy, count_parameters
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.corda import method as corda
from ftcli.papers.corda.method import INVERSE_ERROR, Corda, damp, decompose, rescale_by_maximum
from tests.methods.small_run import Rows, rows, small_run
from tests.methods.tiny import logits, write_llama

R = 8
MODES = ["ipm", "kpm"]
PROJECTIONS = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return CausalLMSource(str(write_llama(tmp_path_factory.mktemp("llama"))))


def start(source, ids=None, **options):
    torch.manual_seed(1)
    method = Corda(**{"r": R, "lora_alpha": R, "samples": 24, "cache": False} | options)
    model = method.prepare(source.load("cpu"))
    method.setup(small_run(model, source, context() if ids is None else ids))
    return method, model


def context(seed=7):
    return rows(count=24, length=16, vocabulary=120, seed=seed)


def example(out=40, width=24, tokens=200):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator)
    x = torch.randn(tokens, width, generator=generator) @ mixing
    return torch.randn(out, width, generator=generator), x.T @ x / tokens


def products(model):
    """scale * B A of every layer."""
    return {
        name: layer.scaling[ADAPTER] * (layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight)
        for name, layer in lora_layers(model).items()
    }


def off(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_all_components_together_are_the_weight(shape):
    weight, covariance = example(*shape)
    parts = decompose(weight, covariance)
    assert len(parts.values) == 24 and (parts.values.diff() <= 0).all()
    assert off(parts.left @ torch.diag(parts.values) @ parts.right, weight) < 1e-4


def test_the_two_modes_take_different_components_that_make_up_the_weight():
    weight, covariance = example()
    parts = decompose(weight, covariance)
    (a, b), (a_kept, b_kept) = (parts.factors(12, mode) for mode in MODES)
    assert a.shape == (12, 24) and b.shape == (40, 12)
    assert (b.T @ b_kept).abs().max() < 1e-4 * b.norm() * b_kept.norm()
    assert off(b @ a + b_kept @ a_kept, weight) < 1e-4
    with pytest.raises(UserError, match="r=25 is above the 24 components"):
        parts.factors(25, "ipm")


def test_in_the_contexts_norm_no_other_truncation_is_better():
    """Eckart and Young: ||(W - W_k) C'|| is the least possible, for every k."""
    weight, covariance = example()
    full, _ = damp(covariance, 0.01)
    parts = decompose(weight, covariance)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    for k in range(1, 24):
        a, b = parts.factors(k, "ipm")
        plain = left[:, :k] @ torch.diag(values[:k]) @ right[:k]
        assert ((weight - b @ a) @ full).norm() < ((weight - plain) @ full).norm()


def test_it_takes_the_covariance_and_not_its_root():
    weight, covariance = example()
    full, _ = damp(covariance, 0.01)
    torch.testing.assert_close(
        decompose(weight, covariance).values,
        torch.linalg.svdvals(weight @ full),
        rtol=1e-4,
        atol=1e-4,
    )


def test_damping_grows_until_a_covariance_of_few_tokens_inverts():
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)) * 100
    x[:, 0] *= 1e4  # one channel far above the rest, as in language models
    full, inverse = damp(x.T @ x, 1e-9)
    assert torch.dist(full @ inverse, torch.eye(200)) < INVERSE_ERROR
    share = (full - x.T @ x).diagonal().mean() / (x.T @ x).diagonal().mean()
    assert share > 1e-8
    healthy = torch.eye(4) * 3
    assert torch.equal(damp(healthy, 0.01)[0], healthy + 0.01 * 3 * torch.eye(4))
    for broken in (torch.zeros(4, 4), torch.full((4, 4), float("nan"))):
        with pytest.raises(UserError, match="zero or not finite"):
            damp(broken, 0.01)


def test_tokens_are_divided_by_the_largest_entry_of_their_sequence():
    x, owner = torch.tensor([[1.0, -8.0], [2.0, 0.5], [-3.0, -4.0]]), torch.tensor([0, 0, 1])
    assert torch.equal(rescale_by_maximum(x, owner), x / torch.tensor([[2.0], [2.0], [3.0]]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [R, 3])
def test_it_is_pefts_corda(source, mode, alpha):
    """The library takes one sequence at a time; the same context, in one padded batch here."""
    ids = context()
    _, model = start(source, ids, mode=mode, lora_alpha=alpha, batch_size=24)
    base = source.load("cpu")
    config = peft.LoraConfig(
        r=R, lora_alpha=alpha, target_modules=PROJECTIONS, init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="ipm" if mode == "ipm" else "kpm"),
    )  # fmt: skip
    preprocess_corda(base, config, run_model=lambda: [base(input_ids=row[None]) for row in ids])
    theirs = peft.get_peft_model(base, config)
    ours, others = products(model), products(theirs)
    assert ours.keys() == others.keys() and len(ours) == 14
    for name, layer in lora_layers(model).items():
        other = lora_layers(theirs)[name]
        assert off(ours[name], others[name]) < 2e-3
        assert off(weight_of(layer), weight_of(other)) < 2e-3
        lengths = [m.lora_A[ADAPTER].weight.norm() for m in (layer, other)]
        assert abs(lengths[0] / lengths[1] - 1) < 1e-3  # and the product is shared out alike


def test_without_a_context_it_is_pissa(source, monkeypatch):
    """C = 5 I: the products are PiSSA's, the factors differ by a constant."""
    monkeypatch.setattr(
        Corda, "covariances",
        lambda self, run: {
            name: 5 * torch.eye(layer.in_features) for name, layer in lora_layers(run.model).items()
        },
    )  # fmt: skip
    _, model = start(source)
    pissa = Peft(r=R, lora_alpha=R, init_lora_weights="pissa").prepare(source.load("cpu"))
    theirs = products(pissa)
    for name, product in products(model).items():
        assert off(product, theirs[name]) < 1e-4
        ours, other = (lora_layers(m)[name] for m in (model, pissa))
        constant = ours.lora_B[ADAPTER].weight.norm() / other.lora_B[ADAPTER].weight.norm()
        assert abs(constant - (5 * 1.01) ** 0.5) < 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"lora_alpha": 3, "use_rslora": True}])
def test_the_model_computes_what_the_base_does(source, mode, options):
    _, model = start(source, mode=mode, **options)
    assert (logits(model) - logits(source.load("cpu"))).abs().max() < 1e-5
    lora = Peft(r=R).prepare(source.load("cpu"))
    counts = [count_parameters(m, trainable_only=True) for m in (model, lora)]
    assert counts[0] == counts[1]


def test_products_of_the_same_rows_do_not_depend_on_alpha_or_batch_size(source):
    _, first = start(source)
    _, second = start(source, lora_alpha=40, batch_size=5)
    theirs = products(second)
    assert all(off(product, theirs[name]) < 1e-3 for name, product in products(first).items())


def test_another_context_gives_other_products(source):
    _, first = start(source)
    _, second = start(source, ids=context(seed=9))
    theirs = products(second)
    assert all(off(product, theirs[name]) > 1e-2 for name, product in products(first).items())


def test_the_training_data_are_the_context_unless_others_are_given(source):
    elsewhere = Rows(context(seed=9))
    replaced = Corda(r=R, lora_alpha=R, samples=24, cache=False)
    replaced.calibration = elsewhere
    torch.manual_seed(1)
    model = replaced.prepare(source.load("cpu"))
    replaced.setup(small_run(model, source, context()))
    _, expected = start(source, ids=context(seed=9))
    theirs = products(expected)
    assert all(torch.equal(product, theirs[name]) for name, product in products(model).items())


def test_covariances_are_measured_once_for_a_base_and_a_context(source, tmp_path, monkeypatch):
    measured = []
    real = corda.input_covariance
    monkeypatch.setattr(corda, "input_covariance", lambda *args: measured.append(1) or real(*args))
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path))
    _, first = start(source, cache=True)
    _, second = start(source, cache=True, r=4, lora_alpha=4, mode="kpm")
    assert len(measured) == 1 and len(list(tmp_path.glob("tokens/covariances/*"))) == 1
    _, third = start(source, cache=True)
    theirs = products(third)
    assert all(torch.equal(product, theirs[name]) for name, product in products(first).items())
    start(source, cache=True, samples=12)
    start(source, ids=context(seed=9), cache=True)
    assert len(measured) == 3
    other = copy.deepcopy(source)
    base = other.load("cpu")
    with torch.no_grad():
        base.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    base.save_pretrained(tmp_path / "moved")
    start(replace(source, path=str(tmp_path / "moved")), cache=True)
    assert len(measured) == 4


def test_a_layer_that_no_token_reaches_is_named(source, monkeypatch):
    monkeypatch.setattr(corda, "input_covariance", lambda *args: {})
    with pytest.raises(UserError, match="no token of the context reaches"):
        start(source)


def test_the_context_is_a_data_node_of_the_method():
    keys = ["method.calibration.path=asset:gsm8k", "method.calibration.format=prompt"]
    composed = compose("qlora_mini", ["method=corda", "model.quantization=none", *keys])
    validate_and_convert(composed)
    method = build(composed.config["method"])
    assert isinstance(method.calibration, Data) and method.calibration.path == "asset:gsm8k"
    assert method.mode == "ipm" and build({**composed.config["method"], "calibration": None})
    wrong = compose(
        "qlora_mini",
        ["method=corda", "model.quantization=none", keys[0] + "", "+method.calibration.formt=text"],
    )
    with pytest.raises(UserError, match="formt"):
        validate_and_convert(wrong)


def test_published_figures_on_the_meta_device():
    meta = CausalLMSource("owner/name", architecture="llama2_7b").build_meta_model()
    widths = [linear.in_features for linear in Anatomy(meta).block_linears]
    assert round(sum(4 * width**2 for width in widths) / 1e9, 1) == 28.4
    model = Corda(r=128, lora_alpha=128).prepare(meta)
    assert count_parameters(model, trainable_only=True) == 319_815_680
