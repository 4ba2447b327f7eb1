"""Models as methods prepare them without weights, and the line that says what is trained."""

import pytest

from ftcli.core.errors import UserError
from ftcli.planning.draft import NeedsWeights
from ftcli.planning.plan import estimate
from ftcli.planning.trained import layers
from ftcli.planning.weights import weigh
from tests.planning.drafts import draft, machine

NONE = "model.quantization=none"


@pytest.mark.parametrize(
    "overrides, line",
    [
        (("method.target_modules=[q_proj,v_proj]",), "q_proj 8, v_proj 8"),
        (("method=full", "method.train=[model.layers.0.mlp.*,*norm.weight]",
          "model.quantization=none"),
         "down_proj 1, gate_proj 1, up_proj 1, 17 other tensors"),
        (("method=prompt_tuning", "data.packing=none"), "1 other tensors"),
        (("method.target_modules=[o_proj]", "method.layers_to_transform=[2,3]"), "o_proj 2"),
    ],
)  # fmt: skip
def test_layers_by_their_last_name(overrides, line):
    assert layers(draft(*overrides).model) == line


@pytest.mark.parametrize("method", ["shira", "vblora"])
def test_a_method_that_looks_at_values_is_tried_on_the_cpu_where_the_model_is_small(method):
    job = draft(f"method={method}", NONE)
    assert estimate(job, 32, machine(24e9)).one.kept() > 0
    large = draft(f"method={method}", NONE, "model=llama3_2_1b")
    with pytest.raises(NeedsWeights, match=f"method={method} looks at the weights"):
        estimate(large, 32, machine(24e9))


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_an_initialisation_from_the_weights_has_the_shapes_of_lora(method):
    found = weigh(draft(f"method={method}", NONE, "model=llama3_2_1b", "method.r=8").model)
    assert found.trainable == 8 * 704_512
    assert found.parameters == 1_235_814_400


def test_targets_that_match_nothing_are_the_users_mistake_and_not_tried_again(monkeypatch):
    job = draft("method.target_modules=[q_porj]")
    monkeypatch.setattr(job, "on_cpu", lambda why: pytest.fail("tried on the CPU"))
    with pytest.raises(UserError, match="q_porj"):
        _ = job.model
