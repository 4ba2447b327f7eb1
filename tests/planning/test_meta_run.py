"""Models as methods prepare them without weights, and the summary of what is trained."""

import pytest

from ftcli.core.errors import UserError
from ftcli.planning.meta_run import NeedsWeights
from ftcli.planning.model_findings import summarize_trained
from ftcli.planning.plan import estimate_memory
from ftcli.planning.weights import count_weights
from tests.planning.jobs import build_job, machine

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
    assert summarize_trained(build_job(*overrides).model) == line


@pytest.mark.parametrize("method", ["shira", "vblora"])
def test_a_method_that_looks_at_values_is_tried_on_the_cpu_where_the_model_is_small(method):
    job = build_job(f"method={method}", NONE)
    assert estimate_memory(job, 32, machine(24e9)).one_row.kept_bytes() > 0
    large = build_job(f"method={method}", NONE, "model=llama3_2_1b")
    with pytest.raises(NeedsWeights, match=f"method={method} reads the weights"):
        estimate_memory(large, 32, machine(24e9))


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_an_initialisation_from_the_weights_has_the_shapes_of_lora(method):
    weights = count_weights(
        build_job(f"method={method}", NONE, "model=llama3_2_1b", "method.r=8").model
    )
    assert weights.trainable == 8 * 704_512
    assert weights.parameters == 1_235_814_400


def test_targets_that_match_nothing_are_the_users_mistake_and_not_tried_again(monkeypatch):
    job = build_job("method.target_modules=[q_porj]")
    monkeypatch.setattr(job, "prepare_on_cpu", lambda cause: pytest.fail("tried on the CPU"))
    with pytest.raises(UserError, match="q_porj"):
        _ = job.model
