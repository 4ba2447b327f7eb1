"""LoRA-GA's equations on real gradients, its first step, and a run that is resumed to the bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from ftcli.core.errors import UserError
from ftcli.methods.calibration import objective_loss, sum_gradients
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.methods.shifted import lora_layers, weight_of
from ftcli.models.anatomy import Anatomy, count_parameters
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.lora_ga import method as lora_ga
from ftcli.papers.lora_ga.method import LoraGA, gradient_factors, singular_vectors
from tests.methods.small_run import rows, small_run
from tests.methods.tiny import logits, write_llama

DIRECTIONS = ["ArB2r", "A2rBr", "ArBr", "random"]
R, ALPHA, GAMMA = 4, 16, 16.0
RSLORA_SCALE = ALPHA / R**0.5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return CausalLMSource(str(write_llama(tmp_path_factory.mktemp("llama"))))


def start(source, **options):
    torch.manual_seed(1)
    method = LoraGA(**{"r": R, "lora_alpha": ALPHA, "use_rslora": True, "samples": 4} | options)
    model = method.prepare(source.load("cpu"))
    run = small_run(model, source)
    method.setup(run)
    return method, model, run


def base_gradients(source):
    """The gradient of each linear of the blocks, over the rows that a small run has."""
    base = source.load("cpu")
    run = small_run(base, source)
    batches = [run.data.batch(range(4))]
    weights = {li.name: li.module.weight for li in Anatomy(base).block_linears}
    return sum_gradients(base, weights, batches, objective_loss(run, batches))


def truncated(matrix, rank):
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]


def off(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (64, 64)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_both_factors_together_carry_the_best_approximation_of_rank_2r(shape, direction):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    a, b = gradient_factors(gradient, R, GAMMA, direction, generator)
    out = shape[0]
    length = out**0.5 / GAMMA
    torch.testing.assert_close(a @ a.T, length * torch.eye(R), atol=1e-5, rtol=0)
    torch.testing.assert_close(b.T @ b, length * torch.eye(R), atol=1e-5, rtol=0)
    assert off(b @ b.T @ gradient + gradient @ a.T @ a, length * truncated(gradient, 2 * R)) < 1e-5


def test_directions_share_the_vectors_out_as_they_say():
    gradient = torch.randn(40, 24, generator=torch.Generator().manual_seed(2))
    left, right = singular_vectors(gradient, 2 * R)
    length = 40**0.25 / GAMMA**0.5
    parts = {"ArB2r": ([0, 1, 2, 3], [4, 5, 6, 7]), "A2rBr": ([4, 5, 6, 7], [0, 1, 2, 3])}
    parts["ArBr"] = ([1, 3, 5, 7], [0, 2, 4, 6])
    for direction, (of_a, of_b) in parts.items():
        a, b = gradient_factors(gradient, R, GAMMA, direction)
        assert (a @ right[:, of_a]).abs().diagonal().min() > length * 0.999
        assert (left[:, of_b].T @ b).abs().diagonal().min() > length * 0.999


def test_of_large_matrices_the_vectors_are_close_and_repeat(monkeypatch):
    monkeypatch.setattr(lora_ga, "EXACT_UP_TO", 0)
    noise = torch.randn(100, 90, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(noise, full_matrices=False)
    matrix = left @ torch.diag(0.8 ** torch.arange(90.0)) @ right
    a, b = gradient_factors(matrix, R, GAMMA)
    actual = b @ b.T @ matrix + matrix @ a.T @ a
    assert off(actual, 100**0.5 / GAMMA * truncated(matrix, 2 * R)) < 1e-4
    before = torch.get_rng_state()
    one = singular_vectors(matrix, 4, torch.Generator().manual_seed(1))
    two = singular_vectors(matrix, 4, torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_in_the_model_the_factors_are_those_of_the_objectives_gradient(source):
    """Signs of singular vectors are free: compared by what the equation says."""
    _, model, _ = start(source)
    expected = base_gradients(source)
    for name, layer in lora_layers(model).items():
        gradient = expected[name.removeprefix("base_model.model.")]
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        length = gradient.shape[0] ** 0.5 / GAMMA
        actual = b @ b.T @ gradient + gradient @ a.T @ a
        assert off(actual, length * truncated(gradient, 2 * R)) < 1e-3
        assert layer.scaling[ADAPTER] == RSLORA_SCALE


def test_how_the_samples_are_cut_into_batches_does_not_matter(source):
    _, one, _ = start(source, batch_size=1)
    _, four, _ = start(source, batch_size=4)
    assert (logits(one) - logits(four)).abs().max() < 1e-5
    for a, b in zip(lora_layers(one).values(), lora_layers(four).values(), strict=True):
        spans = [m.lora_A[ADAPTER].weight.T @ m.lora_A[ADAPTER].weight for m in (a, b)]
        assert off(*spans) < 1e-2  # signs of singular vectors are free


def test_the_model_computes_what_the_base_does_and_trains_as_many_as_lora(source):
    _, model, _ = start(source)
    assert (logits(model) - logits(source.load("cpu"))).abs().max() < 1e-5
    lora = Peft(r=R).prepare(source.load("cpu"))
    counts = [count_parameters(m, trainable_only=True) for m in (model, lora)]
    assert counts[0] == counts[1]


def test_the_first_step_goes_where_full_finetuning_would(source):
    """SGD on the samples: the change of eta B A against -G_2r, and further off for plain LoRA."""
    expected = base_gradients(source)

    def alignment(model, run, rank):
        before = {n: effective(m) for n, m in lora_layers(model).items()}
        batch = run.data.batch(range(4))
        model.zero_grad()
        objective_loss(run, [batch])(model, batch).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter -= 1e-3 * parameter.grad
        actual = {}
        for name, layer in lora_layers(model).items():
            gradient = expected[name.removeprefix("base_model.model.")]
            goal = -truncated(gradient, rank) if rank else -gradient
            change = effective(layer) - before[name]
            actual[name] = cosine_similarity(change.flatten(), goal.flatten(), dim=0).item()
        return actual

    def effective(layer):
        a, b = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
        return layer.scaling[ADAPTER] * (b.double() @ a.double())

    _, model, run = start(source)
    assert min(alignment(model, run, 2 * R).values()) > 0.99
    _, model, run = start(source)
    ours = alignment(model, run, 0)
    torch.manual_seed(1)
    plain = Peft(r=R, lora_alpha=ALPHA, use_rslora=True).prepare(source.load("cpu"))
    lora = alignment(plain, small_run(plain, source), 0)
    assert all(ours[name] > lora[name] for name in ours)


def test_pefts_own_variant_does_not_satisfy_the_equation(source):
    """Why there is a class here: it scales B by singular values, and A not at all."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import preprocess_loraga
    from peft.tuners.lora.config import LoraGAConfig

    base = source.load("cpu")
    config = LoraConfig(
        r=R, lora_alpha=ALPHA, use_rslora=True, target_modules=["q_proj"],
        init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(stable_gamma=16),
    )  # fmt: skip
    run = small_run(base, source)
    batch = run.data.batch(range(4))
    preprocess_loraga(base, config, lambda: objective_loss(run, [batch])(base, batch).backward())
    model = get_peft_model(base, config)
    expected = base_gradients(source)
    for name, layer in lora_layers(model).items():
        gradient = expected[name.removeprefix("base_model.model.")]
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        actual = b @ b.T @ gradient + gradient @ a.T @ a
        assert off(actual, gradient.shape[0] ** 0.5 / GAMMA * truncated(gradient, 2 * R)) > 0.5


def test_a_rank_above_half_of_a_layers_is_refused(source):
    with pytest.raises(UserError, match="r=40 needs 80 singular vectors"):
        start(source, r=40)


def test_other_samples_give_other_factors(source):
    _, one, _ = start(source)
    torch.manual_seed(1)
    method = LoraGA(r=R, lora_alpha=ALPHA, use_rslora=True, samples=4)
    other = method.prepare(source.load("cpu"))
    method.setup(small_run(other, source, ids=rows(seed=8)))
    layers = zip(lora_layers(one).values(), lora_layers(other).values(), strict=True)
    assert all(off(weight_of(a), weight_of(b)) > 1e-2 for a, b in layers)


def test_published_count_on_the_meta_device():
    meta = CausalLMSource("owner/name", architecture="llama2_7b").build_meta_model()
    model = LoraGA(r=8, lora_alpha=16, use_rslora=True).prepare(meta)
    assert count_parameters(model, trainable_only=True) == 19_988_480


def test_a_run_opens_and_resumes_to_the_bit(train_tiny, tmp_path):
    from ftcli.jobs.train import resume
    from ftcli.run.build import open_run

    whole = train_tiny(
        "run.name=lora_ga", "model.quantization=none", "method=lora_ga", "method.r=4",
        "eval=loss", "eval.loss.limit=4", "trainer.max_steps=2", "trainer.save_every=1",
        "trainer.batch_size=4",
    )  # fmt: skip
    opened = open_run(whole)
    final = load_file(whole / "checkpoints/last/adapter.safetensors")
    state = opened.method.get_trained_tensors(opened.model)
    assert state.keys() == final.keys() and any(name.startswith("initial.") for name in state)
    assert all(torch.equal(state[name], tensor) for name, tensor in final.items())
    with opened.evaluation_weights():
        loss = opened.evaluators["loss"](opened)["loss"]
    assert loss == json.loads((whole / "result.json").read_text())["metrics"]["eval.loss"]

    again = tmp_path / "again"
    shutil.copytree(whole, again, symlinks=True)
    for gone in ("result.json", "checkpoints/last", "checkpoints/best"):
        (again / gone).unlink(missing_ok=True)
    shutil.rmtree(again / "checkpoints/step-000002")
    resume(again)
    resumed = load_file(Path(again) / "checkpoints/step-000002/adapter.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())
