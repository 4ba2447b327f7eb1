"""A causal language model whose output layer is untied from its embeddings, so that it can stay as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftcli.models.causal_lm import CausalLMSource


@dataclass
class UntiedCausalLM(CausalLMSource):
    """A model in which token embeddings and output layer are not one tensor, with new weights or files that hold both.

    LT-SFT trains the embeddings of a language and keeps the output layer, which the authors' script unties
    first: through a tied one every token of the vocabulary moves at each step, also those that no text holds.
    """

    def hf_config(self) -> Any:
        """Return the model's configuration without the tie."""
        config = super().hf_config()
        config.tie_word_embeddings = False
        return config
