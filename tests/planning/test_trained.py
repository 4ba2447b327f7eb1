"""The line that says which layers are trained."""

import pytest

from ftcli.planning.trained import layers
from tests.planning.drafts import draft


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
