"""The density of activations as a penalty: closed forms, the modules it reads, what it may change."""

from __future__ import annotations

import gc
import json

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)  # fmt: skip

from ftcli.core.errors import UserError
from ftcli.core.hooks import Probes
from ftcli.core.run import Run
from ftcli.objectives.base import Losses
from ftcli.papers.deft.activations import RealTokens, mlp_activations
from ftcli.papers.deft.penalty import ActivationDensity, _Surrogate, density_surrogate
from tests.penalties.runs import SGD, build, fitted, furthest, start, step_loss, wake

EPS = 1e-7
TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**TINY)), "mlp.act_fn"),
    "qwen2": (lambda: Qwen2ForCausalLM(Qwen2Config(**TINY, num_key_value_heads=2)), "mlp.act_fn"),
    "phi3": (lambda: Phi3ForCausalLM(Phi3Config(**TINY)), "mlp.activation_fn"),
    "neox": (lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**TINY)), "mlp.act"),
    "bert": (lambda: BertModel(BertConfig(**TINY)), "intermediate.intermediate_act_fn"),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=32)),
        "mlp.act",
    ),
    "opt": (
        lambda: OPTForCausalLM(
            OPTConfig(**{**TINY, "ffn_dim": 24}, word_embed_proj_dim=16, activation_function="relu")
        ),
        "activation_fn",
    ),
}


def t5(layers: int = 2, decoder: int = 3, gated: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=layers, num_decoder_layers=decoder, num_heads=2,
        vocab_size=32, feed_forward_proj="gated-gelu" if gated else "relu", decoder_start_token_id=0,
    ))  # fmt: skip


def penalty_on(model: nn.Module, **options) -> ActivationDensity:
    """Set up without a run."""

    class Trainer:
        compile = False

    class Bare:
        trainer = Trainer

    Bare.model = model
    penalty = ActivationDensity(**options)
    penalty.setup(Bare)
    return penalty


@pytest.mark.parametrize("name", MODELS)
def test_one_tap_an_mlp_behind_its_activation(name):
    make, expected = MODELS[name]
    taps = mlp_activations(make())
    assert len(taps) == 3 and all(tap.name.endswith(expected) for tap in taps)


def test_one_tap_an_mlp_on_the_papers_models():
    with torch.device("meta"):
        size = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}
        roberta = AutoModel.from_config(RobertaConfig(**size, num_attention_heads=16))
        seq2seq = t5(24, 12, gated=True)
    assert len(mlp_activations(roberta)) == 24
    roles = [tap.role for tap in mlp_activations(seq2seq)]
    assert roles.count("encoder") == 24 and roles.count("decoder") == 12


def test_taps_by_name_and_models_without_any():
    model = MODELS["llama"][0]()
    assert len(mlp_activations(model, "mlp.down_proj")) == 3
    with pytest.raises(UserError, match="called nothing"):
        mlp_activations(model, "nothing")


def test_surrogate_at_zero_at_root_eps_and_far_away():
    h = density_surrogate(torch.tensor([0.0, EPS**0.5, -(EPS**0.5), 1.0]))
    assert h[0] == 0 and h[3] == pytest.approx(1, abs=1e-6)
    assert h[1].item() == h[2].item() == pytest.approx(0.5, rel=1e-5)


def test_half_precision_does_not_underflow():
    small = torch.full((1, 1, 4), 1e-4, dtype=torch.float16)
    assert small.square().max() == 0  # float16 underflows
    assert density_surrogate(small).min().item() == pytest.approx(1 / 11, rel=1e-2)


def test_value_and_gradient_equal_those_of_the_formula():
    torch.manual_seed(0)
    values = (torch.randn(2, 3, 5) * 1e-3).requires_grad_()
    real = torch.tensor([[True, True, False], [True, False, False]])
    norm = torch.zeros(())
    value = _Surrogate.apply(values, real, EPS, norm)
    (gradient,) = torch.autograd.grad(value, values)
    expected = (values**2 / (values**2 + EPS))[real].sum()
    (expected_gradient,) = torch.autograd.grad(expected, values)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-4)
    assert norm.sqrt().item() == pytest.approx(expected_gradient.norm().item(), rel=1e-4)


class Stub(nn.Module):
    """One layer whose activations are its input."""

    def __init__(self):
        super().__init__()
        block = nn.Module()
        block.fc, block.act = nn.Linear(2, 2), nn.ReLU()
        self.layers = nn.ModuleList([block])

    def forward(self, a):
        return self.layers[0].act(a)


def test_a_one_layer_stub_has_the_value_computed_by_hand():
    penalty = penalty_on(Stub())
    root = EPS**0.5
    a = torch.tensor(
        [[[0.0, root], [-3.0, 5.0]], [[root, root], [9.0, 9.0]]]
    )  # the last is padding
    batch = {"attention_mask": torch.tensor([[1, 1], [1, 0]])}
    penalty.begin(batch)
    penalty._probes.modules["layers.0.act"](a)
    value = penalty(None, batch, None).item()
    assert value == pytest.approx((0 + 0.5 + 0 + 1 + 0.5 + 0.5) / 6, rel=1e-4)
    assert penalty.size(batch) == 3


def test_an_encoder_decoder_is_averaged_by_side_and_added():
    model = t5().eval()
    penalty = penalty_on(model, eps=1e-2)
    ids = torch.arange(3, 13).reshape(2, 5)
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    labels = torch.tensor([[4, 5, 6, 7], [4, 5, -100, -100]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    taps = mlp_activations(model)
    with Probes({tap.name: tap.module for tap in taps}) as probes:
        penalty.begin(batch)
        model(input_ids=ids, attention_mask=mask, labels=labels)
        value, activations = penalty(model, batch, None), probes.take()
    means = {"encoder": [], "decoder": []}
    for tap in taps:
        real = mask.bool() if tap.role == "encoder" else labels != -100
        means[tap.role].append(density_surrogate(activations[tap.name][0], 1e-2)[real].mean())
    assert [len(m) for m in means.values()] == [2, 3]
    expected = sum(torch.stack(m).mean() for m in means.values())
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_tokens_of_flattened_activations_are_told_apart_and_routed_ones_refused():
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    tokens = RealTokens(batch)
    assert tokens.mask(torch.zeros(6, 4), "decoder").tolist() == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    prompts = tokens.mask(torch.zeros(2, 5, 4), "decoder")  # two soft prompts in front
    assert prompts.tolist() == [
        [False, False, True, True, False],
        [False, False, True, False, False],
    ]
    with pytest.raises(UserError, match="experts"):
        tokens.mask(torch.zeros(5, 4), "decoder")


def measure_penalty(run: Run, batches) -> float:
    loss = step_loss(run, batches)
    with torch.no_grad():
        for batch in batches:
            loss(batch)
    return loss.metrics["penalty.activation_density"].item()


ON = ("penalty=activation_density", "penalty.activation_density.eps=1e-3")
METHODS = {
    "lora": ["method=lora", "method.r=4"],
    "ia3": ["method=ia3"],
    "bottleneck": ["method=bottleneck"],
    "prompt_tuning": ["method=prompt_tuning", "data.packing=none"],
}


def test_padded_and_packed_batches_have_the_same_density():
    densities = []
    for packing in ("flat", "none"):
        run, _ = start(*METHODS["lora"], *ON, f"data.packing={packing}")
        run.model.eval()
        densities.append(measure_penalty(run, [run.build_loader().batch(range(6))]))
    assert densities[0] == pytest.approx(densities[1], rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_its_gradient_reaches_the_adapter_and_nothing_else(name):
    run, batches = start(*METHODS[name], *ON)
    wake(run.model)
    run.penalties["activation_density"].weight = 1.0
    loss = step_loss(run, batches)
    for penalty in run.penalties.values():
        penalty.begin(batches[0])
    losses = run.objective(run.model, batches[0])
    run.penalties["activation_density"](run.model, batches[0], losses).backward()
    reached = {n for n, p in run.model.named_parameters() if p.grad is not None and p.grad.any()}
    trained = {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert reached and reached <= trained
    assert len(reached) >= 0.8 * len(trained)  # behind the last activation there is nothing to move
    assert loss.penalty_denominators["activation_density"] == float(
        batches[0].get("lengths", batches[0].get("attention_mask")).sum()
    )


@pytest.mark.parametrize("name", METHODS)
def test_weight_zero_is_plain_training_bit_for_bit(name):
    off = fitted(*METHODS[name], *ON, "penalty.activation_density.weight=0")
    assert furthest(off, fitted(*METHODS[name])) == 0


def test_accumulation_equals_the_large_batch():
    shared = [*METHODS["lora"], *SGD, *ON, "penalty.activation_density.weight=30"]
    large = fitted(*shared, "trainer.batch_size=8")
    small = fitted(*shared, "trainer.batch_size=2", "trainer.gradient_accumulation_steps=4")
    assert furthest(large, fitted(*METHODS["lora"], *SGD, "trainer.batch_size=8")) > 1e-4
    assert furthest(large, small) < 2e-6


@pytest.mark.parametrize("weight", [0, 30])
def test_gradient_checkpointing_gives_the_same_step(weight):
    shared = [*METHODS["lora"], *SGD, *ON, f"penalty.activation_density.weight={weight}",
              "trainer.gradient_accumulation_steps=2"]  # fmt: skip
    plain = fitted(*shared)
    checkpointed = fitted(*shared, "trainer.gradient_checkpointing=true")
    assert furthest(plain, checkpointed) < 1e-6


def test_checkpointing_still_saves_the_memory_of_the_activations():
    """Only the scalars are held between forward and backward, not what was read."""

    def held(*overrides):
        run, batches = start(*METHODS["lora"], *overrides, "trainer.gradient_checkpointing=true")
        sizes = []
        hook = torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        )
        with hook:
            step_loss(run, batches)(batches[0])
        return max(sizes)

    assert held(*ON) == held()


def test_taps_are_off_between_steps_and_nothing_is_held():
    run = build(*METHODS["lora"], *ON, "trainer.max_steps=4")
    counts = []

    class Watch:
        def __getattr__(self, hook):
            return lambda *args: {}

        def after_step(self, state):
            gc.collect()
            live = sum(1 for o in gc.get_objects() if isinstance(o, torch.Tensor))
            hooks = sum(len(m._forward_hooks) for m in run.model.modules())
            counts.append((live, hooks))

    run.loggers["watch"] = Watch()
    run.trainer.fit(run)
    assert [hooks for _, hooks in counts] == [0] * 4
    assert counts[1][0] >= counts[3][0]


def test_it_composes_with_a_reference_on_the_same_modules():
    """The penalty ignores the teacher's forward pass on the same modules."""
    both = [*METHODS["lora"], "penalty=[consistency,activation_density]", ON[1]]
    run, batches = start(*both)
    single, _ = start(*METHODS["lora"], *ON)
    for r in (run, single):
        wake(r.model)
        r.model.eval()
    assert measure_penalty(run, batches) == measure_penalty(single, batches)


def test_the_norm_of_its_gradient_is_logged(tmp_path):
    from ftcli.config import compose, validate_and_convert
    from ftcli.jobs.train import train
    from tests.penalties.runs import SMALL

    composed = compose("qlora_mini", [*SMALL, *METHODS["lora"], *ON, f"run.dir={tmp_path}"])
    validate_and_convert(composed)
    folder = train(composed)["run"]
    lines = [json.loads(line) for line in open(f"{folder}/metrics.jsonl")]
    norms = [
        line["penalty.activation_density.gradient"]
        for line in lines
        if "penalty.activation_density.gradient" in line
    ]
    assert len(norms) == 2 and min(norms) > 0
    assert any(0 < line.get("penalty.activation_density", 0) < 1 for line in lines)


def test_compiled_blocks_are_refused():
    run = build(*METHODS["lora"], *ON, "trainer.compile=true")
    with pytest.raises(UserError, match="may be left out of compiled"):
        run.penalties["activation_density"].setup(run)


def relu_classifier(seed: int, weight: float) -> tuple[float, float]:
    """Adapt a trained ReLU network; (share of exactly non-zero activations, accuracy)."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=g) * 1.5
    y = torch.randint(0, 4, (256,), generator=g)
    x = (centres[y] + torch.randn(256, 12, generator=g))[:, None]
    torch.manual_seed(seed)
    block = nn.Module()
    block.fc, block.act, block.out = nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 4)
    model = nn.Module()
    model.layers = nn.ModuleList([block])
    down, up = nn.Parameter(torch.randn(12, 4) / 3.5), nn.Parameter(torch.zeros(4, 64))
    shift = nn.Parameter(torch.zeros(64))

    def forward(adapted=True):
        pre = block.fc(x) + ((x @ down @ up + shift) if adapted else 0)
        return block.out(block.act(pre))[:, 0]

    def train(parameters, steps, penalty=None, lr=1e-2):
        optimizer = torch.optim.Adam(parameters, lr=lr)
        batch = {"attention_mask": torch.ones(256, 1)}
        for _ in range(steps):
            optimizer.zero_grad()
            if penalty:
                penalty.begin(batch)
            loss = nn.functional.cross_entropy(forward(penalty is not None), y)
            if penalty:
                loss = loss + penalty.weight * penalty(model, batch, Losses(loss, y))
            loss.backward()
            optimizer.step()

    train(model.parameters(), 150)
    model.requires_grad_(False)
    penalty = penalty_on(model, weight=weight, eps=1e-2)
    train([down, up, shift], 300, penalty)
    penalty.on_train_end(None)
    with Probes({"act": block.act}) as probes, torch.no_grad():
        right = (forward().argmax(1) == y).float().mean().item()
        density = (probes.take()["act"][0] != 0).float().mean().item()
    return density, right


def test_a_small_relu_network_becomes_a_fifth_sparser_at_the_same_accuracy():
    pairs = [(relu_classifier(seed, 0.0), relu_classifier(seed, 1.0)) for seed in range(3)]
    assert all(sparse[0] < 0.8 * dense[0] for dense, sparse in pairs)
    assert all(sparse[1] > dense[1] - 0.01 for dense, sparse in pairs)
