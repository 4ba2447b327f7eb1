"""Measurements of the ntk_attention recipe, by the names its claims use; each takes a run folder.

Two are on random attention of one head, as in the paper's measurement of errors, and use only the seed of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Generator, Tensor

WIDTH, TOKENS = 64, 128  # d and L of the paper's measurement
FIT_WIDTH, FIT_TOKENS, FIT_PREFIX = 16, 64, 64
STEPS, RATES = 150, (0.03, 0.3)


@measure
def ntk_fit_over_prefix(run: Path) -> float:
    """Error of a fitted (k, Z) over that of a fitted prefix of length 1, both against a random prefix of 64.

    Errors are mean squares on queries that were not fitted on. Both have the same steps and the better of the
    same two rates.
    """
    from ftcli.reproduce.probe import seed_of

    generator = _seeded(seed_of(run))
    teacher = Teacher(generator, FIT_WIDTH, FIT_TOKENS, FIT_PREFIX, queries=5 * FIT_TOKENS)
    errors = {
        kind: min(_fit(teacher, kind, rate, generator) for rate in RATES)
        for kind in ("ntk", "prefix")
    }
    return errors["ntk"] / errors["prefix"]


@measure
def ntk_long_over_short(run: Path) -> float:
    """Mean squared error of the (k, Z) that is read from a prefix of 2,048 over that of a prefix of 8."""
    from ftcli.papers.ntk_attention.attention import summarise_prefix
    from ftcli.reproduce.probe import seed_of

    errors = []
    for length in (2048, 8):
        teacher = Teacher(_seeded(seed_of(run)), WIDTH, TOKENS, length, queries=TOKENS)
        k, Z = summarise_prefix(teacher.prefix_keys, teacher.prefix_values)
        errors.append((teacher.attend_ntk(k, Z) - teacher.outputs).square().mean().item())
    return errors[0] / errors[1]


@measure(exact=True)
def ntk_formula_difference(run: Path) -> float:
    """Largest difference between the trained layers' attention and the paper's formula, on random rows."""
    import torch

    from ftcli.papers.ntk_attention.method import PrefixedAttention
    from ftcli.run.build import open_run

    trained, furthest = open_run(run), 0.0
    for layer in (m for m in trained.model.modules() if isinstance(m, PrefixedAttention)):
        k, Z = layer.ntkattention_k["default"], layer.ntkattention_Z["default"]
        q, key, value = torch.randn(3, 1, len(k), 24, k.shape[-1], generator=_seeded(0))
        with torch.no_grad():
            out, _ = layer.attend(
                layer.base_layer, (q, key, value), None, scaling=k.shape[-1] ** -0.5
            )
            expected = _attend_naively(q, key, value, k[:, :, None], Z, causal=True)
        furthest = max(furthest, (out - expected.transpose(1, 2)).abs().max().item())
    return furthest


class Teacher:
    """Attention of one head with a random prefix, and queries with its outputs on them.

    Args:
        width: d.
        tokens: keys and values of the row, L.
        prefix: keys and values of the prefix, m.
        queries: their number.
    """

    def __init__(
        self, generator: Generator, width: int, tokens: int, prefix: int, queries: int
    ) -> None:
        import torch

        def draw(rows: int) -> Tensor:
            return torch.randn(rows, width, generator=generator)

        self.queries, self.keys, self.values = draw(queries), draw(tokens), draw(tokens)
        self.prefix_keys, self.prefix_values = draw(prefix), draw(prefix)
        self.outputs = self.attend_prefix(self.prefix_keys, self.prefix_values)

    def attend_prefix(self, keys: Tensor, values: Tensor) -> Tensor:
        """Return the outputs [queries, d] with a prefix of keys and values [m, d]."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        return scaled_dot_product_attention(
            self.queries, torch.cat([keys, self.keys]), torch.cat([values, self.values])
        )

    def attend_ntk(self, k: Tensor, Z: Tensor) -> Tensor:
        """Return the outputs [queries, d] with k [d] and Z [d, d] in place of a prefix."""
        return _attend_naively(self.queries, self.keys, self.values, k[:, None], Z, causal=False)


def _fit(teacher: Teacher, kind: str, rate: float, generator: Generator) -> float:
    """Fit to four fifths of the teacher's outputs by Adam; return the error on the others."""
    import torch

    width = teacher.keys.shape[1]
    attend: Callable[..., Tensor] = teacher.attend_ntk if kind == "ntk" else teacher.attend_prefix
    parameters = [torch.zeros(width), torch.zeros(width, width)]
    if kind == "prefix":
        start = 0.02 * torch.randn(1, width, generator=generator)
        parameters = [start, torch.zeros(1, width)]
    fitted = 4 * len(teacher.queries) // 5
    optimizer = torch.optim.Adam([p.requires_grad_() for p in parameters], rate)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (attend(*parameters) - teacher.outputs)[:fitted].square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return (attend(*parameters) - teacher.outputs)[fitted:].square().mean().item()


def _attend_naively(
    q: Tensor, key: Tensor, value: Tensor, k: Tensor, Z: Tensor, causal: bool
) -> Tensor:
    """Return the paper's formula for queries, keys and values [.., d], k [.., d, 1] and Z [.., d, d], in float64."""
    from ftcli.papers.ntk_attention.attention import map_features, take_magnitude

    dtype = q.dtype
    q, key, value, k, Z = (x.double() for x in (q, key, value, k, Z))
    scores: Any = (q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5).exp()
    if causal:
        scores = scores.tril()
    features = map_features(q)
    total = scores.sum(-1, keepdim=True) + features @ take_magnitude(k)
    out: Tensor = ((scores @ value + features @ Z) / total).to(dtype)
    return out


def _seeded(seed: int) -> Generator:
    import torch

    return torch.Generator().manual_seed(seed)
