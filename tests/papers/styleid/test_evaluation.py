"""StyleID without training: reconstruction, number of calls, unchanged weights, distances."""

from __future__ import annotations

import pytest
import torch

from ftcli.models.diffusion import Ddim, noise_predictor
from ftcli.papers.styleid.distances import color_distance, content_distance, gram_distance
from ftcli.papers.styleid.evaluation import StyleTransfer
from tests.models.small_ldm import small

ALL = ["up_blocks.*"]
EMPTY = torch.zeros(6, dtype=torch.int64)


def images(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1


def run_transfer(content, style, **options):
    settings = {"layers": ALL, "steps": 4} | options
    model = small()
    before = {n: p.clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        results, calls = StyleTransfer(**settings).transfer(model, content, style, EMPTY)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    return results, calls


def test_with_everything_off_it_is_the_contents_reconstruction():
    content = images(2, 0)
    results, _ = run_transfer(content, images(1, 1), adain=False, inject=False)
    model = small()
    walk, score = (
        Ddim.from_scheduler(model.scheduler, 4),
        noise_predictor(model, EMPTY.expand(2, -1)),
    )
    with torch.no_grad():
        x = model.encode(content)
        expected = model.decode(walk.sample(walk.invert(x, score), score))
    assert torch.allclose(results, expected, atol=1e-4)


def test_each_image_is_inverted_once_and_each_pair_drawn_once():
    _, calls = run_transfer(images(3, 0), images(2, 1))
    assert calls == 4 * (3 + 2 + 3 * 2)


def test_pairs_come_content_by_content_and_each_by_its_own_style():
    content, style = images(2, 0), images(2, 1)
    together, _ = run_transfer(content, style)
    for number, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        alone, _ = run_transfer(content[i : i + 1], style[j : j + 1])
        assert torch.allclose(together[number], alone[0], atol=1e-4)


@pytest.mark.parametrize("off", ["adain", "inject"])
def test_each_part_has_an_effect(off):
    content, style = images(1, 0), images(1, 1)
    whole, _ = run_transfer(content, style)
    assert (run_transfer(content, style, **{off: False})[0] - whole).abs().max() > 1e-3


def test_content_ignores_colours_and_sees_edges():
    x = images(2, 3)
    assert content_distance(x, x).abs().max() < 1e-5
    assert content_distance(x, 0.3 * x + 0.2).abs().max() < 1e-5
    assert (content_distance(x, x.flip(-1)) > 0.5).all()


def test_texture_ignores_places_and_colours_are_wasserstein():
    x = images(2, 3)
    assert gram_distance(x, x).max() == 0
    assert (gram_distance(x, x.roll(4, -1)) < gram_distance(x, images(2, 4))).all()
    assert torch.allclose(color_distance(x, x + 0.25), torch.full((2,), 0.25), atol=1e-6)
    shuffled = x.flatten(2)[..., torch.randperm(64)].view_as(x)
    assert color_distance(x, shuffled).max() < 1e-6
