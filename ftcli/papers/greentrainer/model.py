"""OPT by its sizes, whose configurations do not all ship."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import OPTConfig, PreTrainedConfig

from ftcli.models.causal_lm import CausalLMSource


@dataclass
class OptSource(CausalLMSource):
    """Loads an OPT (arXiv 2205.01068, table 1); its configuration needs no file."""

    hidden_size: int = 2560  # width of the blocks; the MLPs are four times as wide
    num_layers: int = 32  # blocks
    num_heads: int = 32  # heads of attention

    def hf_config(self) -> PreTrainedConfig:
        """Return the configuration of these sizes."""
        return OPTConfig(
            hidden_size=self.hidden_size,
            word_embed_proj_dim=self.hidden_size,
            ffn_dim=4 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
        )
