"""DFT: the loss of a token is its cross-entropy times its probability, which has no gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.objectives.dft import DFT
from tests.objectives.test_causal_lm import build, padded


def logits() -> torch.Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)


LABELS = torch.tensor([0, 6, 3, 3, 1])


def test_equation_and_gradient():
    z = logits()
    values = DFT().training_losses(z, LABELS)
    p = z.detach().softmax(-1)
    chosen = p[torch.arange(5), LABELS]
    torch.testing.assert_close(values.detach(), -chosen * chosen.log())
    values.sum().backward()
    # the gradient of -log p_t is softmax - onehot; the probability is a factor
    torch.testing.assert_close(z.grad, chosen[:, None] * (p - one_hot(LABELS, 7)))


def test_label_smoothing_is_the_documented_mixture():
    z, e = logits(), 0.1
    logs = z.log_softmax(-1)
    expected = (1 - e) * -logs[torch.arange(5), LABELS] + e / 7 * -logs.sum(-1)
    found = NextTokenPrediction(label_smoothing=e).training_losses(z, LABELS)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, cross_entropy(z, LABELS, reduction="none"))


@pytest.mark.parametrize("chunk", [3, 1024])
@pytest.mark.parametrize("kind", [DFT, lambda **o: NextTokenPrediction(label_smoothing=0.2, **o)])
def test_held_out_rows_are_judged_by_plain_cross_entropy(kind, chunk):
    model, batch = build("llama"), padded()
    plain = NextTokenPrediction()(model, batch).values.detach()
    objective = kind(chunk_size=chunk)
    torch.testing.assert_close(objective.held_out_losses(model, batch).values.detach(), plain)
    trained = objective(model, batch).values.detach()
    assert not torch.allclose(trained, plain, rtol=1e-3)
    if isinstance(objective, DFT):
        torch.testing.assert_close(trained, (-plain).exp() * plain)
