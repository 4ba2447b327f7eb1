"""GaLore and Natural GaLore: the published steps, the natural gradient, the size of the state."""

import copy
import io

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from ftcli.config import build, recipes_dir
from ftcli.core.errors import UserError
from ftcli.optimizers import state as optimizer_state
from ftcli.papers.natural_galore.optimizer import GaLore, natural_gradient

TALL, WIDE = "model.layers.0.tall.weight", "model.layers.0.wide.weight"
SHAPES = {
    "model.embed_tokens.weight": (50, 12), TALL: (24, 12), WIDE: (12, 24), "model.norm.weight": (12,),
}  # fmt: skip

FOLDER = recipes_dir() / "natural_galore" / "configs" / "optimizer"


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape).to(dtype))) for name, shape in SHAPES.items()]


def give_gradients(named, step):
    generator = torch.Generator().manual_seed(step)
    for _, p in named:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def advance(named, optimizer, first, last):
    for step in range(first, last):
        give_gradients(named, step)
        optimizer.step()


def of(named, name):
    return dict(named)[name]


@pytest.mark.parametrize("transform", ["none", "natural"])
@pytest.mark.parametrize("kind", ["svd", "tucker"])
def test_projectors_are_orthonormal_and_span_the_leading_directions(kind, transform):
    named = parameters()
    optimizer = GaLore(named, rank=4, projector=kind, transform=transform)
    advance(named, optimizer, 0, 1)
    for name in (TALL, WIDE):
        p = of(named, name)
        state = optimizer.state[p]
        kept = {side for side in ("left", "right") if side in state}
        single = {"right"} if p.shape[0] >= p.shape[1] else {"left"}
        assert kept == ({"left", "right"} if kind == "tucker" else single)
        left, _, right = torch.linalg.svd(p.grad, full_matrices=False)
        for side, basis in (("left", left[:, :4]), ("right", right[:4].T)):
            if side in state:
                q = state[side]
                assert torch.allclose(q.T @ q, torch.eye(4), atol=1e-6)
                assert torch.allclose(q @ q.T, basis @ basis.T, atol=1e-5)
    assert "exp_avg" in optimizer.state[of(named, "model.embed_tokens.weight")]
    assert "right" not in optimizer.state[of(named, "model.embed_tokens.weight")]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_the_published_galore(weight_decay):
    galore_torch = pytest.importorskip("galore_torch")
    ours, theirs = parameters(), parameters()
    optimizer = GaLore(
        [{"params": ours, "weight_decay": weight_decay}], lr=0.01, rank=4, update_gap=3, scale=0.5
    )
    low = {"rank": 4, "update_proj_gap": 3, "scale": 0.5, "proj_type": "std"}
    plain = [p for name, p in theirs if "layers" not in name]
    projected = [p for name, p in theirs if "layers" in name]
    reference = galore_torch.GaLoreAdamW(
        [{"params": plain}, {"params": projected, **low}],
        lr=0.01, weight_decay=weight_decay, no_deprecation_warning=True,
    )  # fmt: skip
    for step in range(8):
        for named, opt in ((ours, optimizer), (theirs, reference)):
            give_gradients(named, step)
            opt.step()
        for (name, a), (_, b) in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=2e-6), (name, step)


def test_a_square_projector_of_full_rank_is_adam_in_a_rotated_basis():
    weight = nn.Parameter(torch.zeros(8, 8))
    optimizer = GaLore([("layers.0", weight)], lr=0.01, rank=8, scale=1.0, update_gap=1000)
    torch.manual_seed(0)
    gradients = [torch.randn(8, 8) for _ in range(5)]
    basis = torch.linalg.svd(gradients[0])[2].T
    rotated = nn.Parameter(torch.zeros(8, 8))
    adam = torch.optim.Adam([rotated], lr=0.01, eps=1e-12)
    optimizer.param_groups[0]["eps"] = 1e-12
    for gradient in gradients:
        weight.grad, rotated.grad = gradient, gradient @ basis
        optimizer.step()
        adam.step()
    assert torch.allclose(weight, rotated @ basis.T, atol=1e-5)


@pytest.mark.parametrize(("count", "size"), [(1, 1.0), (5, 0.01), (20, 30.0)])
def test_the_natural_gradient_is_the_dense_solve(count, size):
    torch.manual_seed(0)
    history = size * torch.randn(count, 40, dtype=torch.float64)
    index = count // 2
    fisher = 1e-3 * torch.eye(40, dtype=torch.float64) + history.T @ history
    dense = torch.linalg.solve(fisher, history[index])
    direction = natural_gradient(history, index, 1e-3)
    assert ((direction - dense).norm() / dense.norm()).item() < 1e-5
    assert ((natural_gradient(history.float(), index, 1e-3) - dense).norm() / dense.norm()) < 1e-5
    g = history[index]
    woodbury = _woodbury(history, g, 1e-3)
    assert ((direction - woodbury).norm() / dense.norm()).item() < 1e-5


def _woodbury(history, g, damping):
    small = torch.eye(len(history), dtype=g.dtype) + history @ history.T / damping
    z = torch.cholesky_solve((history @ g)[:, None], torch.linalg.cholesky(small))
    return g / damping - (history.T @ z).squeeze(1) / damping**2


def test_one_vector_of_history_only_rescales():
    g = torch.randn(1, 30, dtype=torch.float64)
    assert torch.allclose(natural_gradient(g, 0, 0.1), g[0] / (0.1 + g.square().sum()))


def test_the_first_natural_step_is_galores_and_the_second_is_not():
    both = []
    for transform in ("none", "natural"):
        named = parameters()
        optimizer = GaLore(named, lr=0.01, rank=4, transform=transform, history=1, eps=1e-12)
        advance(named, optimizer, 0, 1)
        first = [p.detach().clone() for _, p in named]
        advance(named, optimizer, 1, 2)
        both.append((first, [p.detach().clone() for _, p in named]))
    for a, b in zip(both[0][0], both[1][0], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(both[0][1][1], both[1][1][1], atol=1e-4)


@pytest.mark.parametrize(
    ("clear", "filled"), [(True, [1, 2, 3, 1, 2, 3]), (False, [1, 2, 3, 4, 4, 4])]
)
def test_history_is_a_ring_and_forgotten_with_its_basis(clear, filled):
    named = parameters()
    optimizer = GaLore(
        named, rank=4, update_gap=3, transform="natural", history=4, clear_on_refresh=clear
    )
    state = optimizer.state[of(named, TALL)]
    for step, expected in enumerate(filled):
        advance(named, optimizer, step, step + 1)
        state = optimizer.state[of(named, TALL)]
        assert state["filled"] == expected
        newest = (of(named, TALL).grad @ state["right"]).flatten()
        assert torch.allclose(state["history"][(state["at"] - 1) % 4], newest, atol=1e-6)
    assert state["history"].shape == (4, 24 * 4)


@pytest.mark.parametrize("kind", ["svd", "tucker"])
@pytest.mark.parametrize("history", [0, 5])
def test_the_state_has_the_size_of_its_formula(kind, history):
    named, rank = parameters(), 4
    transform = "natural" if history else "none"
    options = {"history": history} if history else {}
    optimizer = GaLore(named, rank=rank, projector=kind, transform=transform, **options)
    advance(named, optimizer, 0, 7)
    expected = 2 * 50 * 12 + 2 * 12  # AdamW on the embedding and the norm
    for name in (TALL, WIDE):
        small, large = sorted(SHAPES[name])
        low = rank * rank if kind == "tucker" else rank * large
        sides = rank * (small + large) if kind == "tucker" else rank * small
        expected += sides + (2 + history) * low
    assert optimizer_state.elements(optimizer) == expected


def test_the_fishers_history_of_a_roberta_matrix_is_ten_times_its_moments():
    weight = nn.Parameter(torch.zeros(768, 3072))
    weight.grad = torch.randn(768, 3072)
    optimizer = GaLore([("layer.0", weight)], rank=4, transform="natural", history=20)
    optimizer.step()
    state = optimizer.state[weight]
    assert state["exp_avg"].numel() + state["exp_avg_sq"].numel() == 2 * 4 * 3072
    assert state["history"].numel() == 20 * 4 * 3072


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["svd", "tucker"])
def test_resumed_steps_are_equal_to_the_bit(kind, dtype):
    options = {"rank": 4, "update_gap": 3, "projector": kind, "transform": "natural", "history": 3}
    whole = parameters(dtype)
    optimizer = GaLore(whole, **options)
    advance(whole, optimizer, 0, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    resumed = [(name, nn.Parameter(p.detach().clone())) for name, p in whole]
    advance(whole, optimizer, 5, 9)
    other = GaLore(resumed, **options)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    advance(resumed, other, 5, 9)
    for (name, a), (_, b) in zip(whole, resumed, strict=True):
        assert torch.equal(a, b) and a.isfinite().all(), name


def test_a_zero_gradient_waits_for_its_projector():
    weight = nn.Parameter(torch.ones(8, 6))
    optimizer = GaLore([("layers.0", weight)], lr=0.1, rank=2, update_gap=50, transform="natural")
    weight.grad = torch.zeros(8, 6)
    optimizer.step()
    assert torch.equal(weight, torch.ones(8, 6))
    torch.manual_seed(0)
    weight.grad = torch.randn(8, 1) @ torch.randn(1, 6)
    optimizer.step()
    direction = torch.linalg.svd(weight.grad)[2][0]
    assert (optimizer.state[weight]["right"].T @ direction).norm().item() == pytest.approx(
        1, abs=1e-5
    )
    weight.grad = torch.full((8, 6), float("nan"))
    optimizer.state[weight]["age"] = 50
    optimizer.step()  # as with AdamW the weights become NaN; the decomposition raises no error
    assert weight.isnan().any()


def test_a_frozen_matrix_keeps_no_state():
    named = parameters()
    optimizer = GaLore(named, rank=4)
    give_gradients(named, 0)
    of(named, TALL).grad = None
    before = of(named, TALL).detach().clone()
    optimizer.step()
    assert of(named, TALL) not in optimizer.state
    assert torch.equal(of(named, TALL), before)


def test_natural_reaches_a_lower_loss_on_an_ill_conditioned_quadratic():
    """Equal steps, the best learning rate of each from one sweep, damping of the size of |g|^2.

    With the published 1e-3, a thousandth of |g|^2 here, it ends far above GaLore: the gradients of
    successive steps are nearly parallel and their common part is what the damping must keep.
    """
    torch.manual_seed(0)
    mix = torch.linalg.qr(torch.randn(16, 16))[0] @ torch.diag(torch.logspace(0, -2, 16))
    target = torch.randn(12, 16)

    def final(transform, damping, lr):
        weight = nn.Parameter(torch.zeros(12, 16))
        options = {"rank": 12, "scale": 1.0, "update_gap": 1000, "eps": 1e-12}
        optimizer = GaLore(
            [("layers.0", weight)], lr=lr, transform=transform, damping=damping, **options
        )
        for step in range(200):
            weight.grad = 2 * (weight.detach() - target) @ mix @ mix.T
            optimizer.param_groups[0]["lr"] = lr * (1 - step / 200)
            optimizer.step()
        return ((weight.detach() - target) @ mix).square().sum().item()

    def best(transform, damping=1.0):
        return min(final(transform, damping, lr) for lr in (0.01, 0.03, 0.1, 0.3, 1.0))

    plain = best("none")
    assert best("natural") < plain
    assert best("natural", damping=1e-3) > plain


@pytest.mark.parametrize("name", ["galore", "natural_galore"])
def test_the_options_build(name):
    node = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    named = parameters()
    optimizer = build(node | {"rank": 3}).build(named, "cpu")
    advance(named, optimizer, 0, 2)
    state = optimizer.state[of(named, WIDE)]
    assert state["exp_avg"].shape == (3, 24)
    assert ("history" in state) == (name == "natural_galore")


@pytest.mark.parametrize("options", [{"rank": 0}, {"projector": "std"}, {"transform": "newton"}])
def test_impossible_options_are_refused(options):
    node = OmegaConf.to_container(OmegaConf.load(FOLDER / "galore.yaml"))
    with pytest.raises(UserError):
        build(copy.deepcopy(node) | options).build(parameters(), "cpu")
