"""A small model of every causal-LM type that transformers knows, built from its config class.

Nothing here chooses the types: they come from transformers' own mapping, and configurations shrink by
the meaning of their keys. `EXCEPTIONS` holds what a rule cannot know about one type, with the reason.
Weights are drawn anew, large enough that attention, experts, sinks and biases all change the loss.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .zoo_exceptions import EXCEPTIONS, NOT_BUILT

HIDDEN, HEADS, KV_HEADS, HEAD, VOCABULARY, EXPERTS, WINDOW = 64, 4, 2, 16, 256, 4, 6
LEAST_LAYERS, MOST_LAYERS = 2, 6
MOST_PARAMETERS = 4_000_000  # a larger one was not shrunk
SPECIAL = 240  # ids from here on stand for images, sounds and the like; documents hold smaller ones
#: Decoders of these families look both ways unless they are told to be decoders.
DECODER = {("is_decoder", False): True, ("causal", False): True, ("attn_type", "bi"): "uni"}

#: The small value by the key's name; the first pattern that matches the whole key counts.
RULES: tuple[tuple[str, Any], ...] = (
    (r".*vocab_size.*|.*_vocab", VOCABULARY),
    (r"n_positions|n_ctx|max_(source_|target_)?position(_embedding)?s|max_seq_len", 512),
    (r"context_length|model_max_length|max_seq_length", 512),
    (r".*num_key_value_heads|num_kv_heads|.*_kv_heads|linear_num_key_heads", KV_HEADS),
    (r"num_query_groups|mamba_n_groups|n_groups|mamba_ngroups", KV_HEADS),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (
        r"index(er)?_n_heads",
        16,
    ),  # with few heads scores are often exactly 0, and the choice is a tie
    (r".*num_(\w+_)?heads(_per_layer)?|.*attention_heads|.*n_heads?", HEADS),
    (r"qk_head_dim", 24),
    (r"qk_rope_head_dim|rotary_dim", 8),
    (r".*head_dim|.*_head_size|kv_channels|d_head|dim_head|mamba_d_head|mamba_headdim", HEAD),
    (r"n_group|num_expert_group", 2),
    (r"topk_group", 1),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts", 2),
    (r"num_(local_)?experts|n_routed_experts|moe_num_experts", EXPERTS),
    (r"(n|num)_shared_experts|moe_num_shared_experts", 1),
    (r"(q|kv|o)_lora_rank|.*_lowrank|.*_rank|index_topk.*", 8),
    (r".*sliding_window(_size)?|attention_window_size|attention_chunk_size|window_size", WINDOW),
    (r"local_attention|keep_window_size|local_attention_window_len", WINDOW),
    (r"(mamba_)?d_state|state_size|ssm_state_size", 8),
    (r".*(chunk_size|block_size|chunk_length)", 8),
    (r".*(intermediate|ffn_hidden|feed_forward)_size.*|.*ffn_dim|dim_ff|dff|n_inner|d_inner", 96),
    (r".*hidden_size|d_model|n_embd|emb_dim|lru_width|.*embedding_size|embedding_dim", HIDDEN),
    (r"\w+_proj_dim|ple_embed_dim|embed_dim|dim_model_base|mamba_d_ssm", HIDDEN),
    (r"logits_scaling", 3.0),
    (r"(residual|embedding|lm_head|key|ssm_(in|out)|attention_(in|out))_multiplier", 0.7),
    (r"final_logit_softcapping|.*logits?_soft_cap|attn_logit_softcapping", 3.0),
    (r"first_k_dense_replace|num_dense_layers|max_window_layers", 1),
    (r"dropout|.*_dropout|.*_pdrop|.*dropout_prob|.*layerdrop", 0.0),
)
LAYER_COUNT = re.compile(r"num_hidden_layers|n_layers?|num_layers|num_blocks|(en|de)coder_layers")
TOKEN_ID = re.compile(r".*token.*id|.*_token_index|.*_index|eod_token_id")


def types() -> list[str]:
    """Every name of transformers' causal-LM mapping."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def build(kind: str, seed: int = 0) -> PreTrainedModel:
    """A small model of a type with new weights, in eval mode; the same for the same seed.

    Raises:
        NotImplementedError: the type cannot stand as a small causal language model; says why.
    """
    if kind in NOT_BUILT:
        raise NotImplementedError(NOT_BUILT[kind])
    config = small_config(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    assert size < MOST_PARAMETERS, (
        f"{kind} has {size} parameters; a rule or an exception is missing"
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(zlib.crc32(kind.encode()) + seed)
        model = AutoModelForCausalLM.from_config(config)
        draw(model)
    return model.eval()


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """The model as `save_pretrained` writes it."""
    build(kind, seed).save_pretrained(folder)
    return folder


@torch.no_grad()
def draw(model: nn.Module) -> None:
    """Draw weights of which each part changes the loss.

    Matrices get unit gain, so that neither attention nor experts vanish beside the residual stream;
    vectors (norms, biases, sinks, gates) move away from the zeros and ones of their initialisation.
    Buffers that correct the choice of experts are weights in all but name.
    """
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or "A_log" in name:
            scale = 1.0 if "sink" in name else 0.2
            weight.add_(torch.randn_like(weight) * scale)
        else:
            weight.copy_(torch.randn_like(weight) * _deviation(name, weight))
    for name, buffer in model.named_buffers():
        if "correction" in name and buffer.is_floating_point():
            buffer.add_(torch.randn_like(buffer) * 0.2)


def _deviation(name: str, weight: torch.Tensor) -> float:
    fan = weight[0].numel() if weight.dim() != 3 or "conv" in name else max(weight.shape[1:])
    return float(min(1.0, fan**-0.5) if fan > 1 else 0.5)


def small_config(kind: str) -> PreTrainedConfig:
    """The configuration of a small model of a type, with every kind of layer that it has."""
    exceptions = EXCEPTIONS.get(kind, {})
    return shrink(CONFIG_MAPPING[kind](), exceptions)


def shrink(config: PreTrainedConfig, exceptions: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of the same class, small by the rules; nested configurations too."""
    values = {k: v for k, v in vars(config).items() if not k.startswith("_")}
    counts = [v for k, v in values.items() if LAYER_COUNT.fullmatch(k) and isinstance(v, int)]
    layers = counts[0] if counts else 0
    chosen = _choose_layers(values, layers)
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, PreTrainedConfig):
            changed[key] = shrink(value, exceptions.get(key, {}))
        else:
            changed[key] = _small(key, value, layers, chosen)
    changed = {k: v for k, v in changed.items() if v is not values[k]}
    changed |= _agreed(values, changed)
    changed = _arguments(config, changed)
    changed |= {k: v for k, v in exceptions.items() if not isinstance(v, dict) or k not in changed}
    return type(config)(**changed)


def _agreed(values: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Set sizes that must agree: rotary dimensions and head, keys and queries, unset sizes."""
    agreed: dict[str, Any] = {}
    if values.get("qk_rope_head_dim") and "head_dim" in values:
        agreed["head_dim"] = changed["qk_rope_head_dim"]
    elif "head_dim" in values and values["head_dim"] is None:
        agreed["head_dim"] = HEAD
    heads, keys = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if heads is not None and heads == keys:
        agreed["num_key_value_heads"] = HEADS
    elif "num_key_value_heads" in values and keys is None:
        agreed["num_key_value_heads"] = KV_HEADS
    if "num_experts_per_tok" in values and values["num_experts_per_tok"] is None:
        agreed["num_experts_per_tok"] = 2
    if "sliding_window" in values and values["sliding_window"] is None:
        agreed["sliding_window"] = WINDOW
    if values.get("use_sliding_window") is False:
        agreed |= {"use_sliding_window": True, "layer_types": None}
    return agreed


def _arguments(config: PreTrainedConfig, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the class takes, under its names; others follow from these."""
    fields = {field.name for field in dataclasses.fields(config)}
    aliases = {v: k for k, v in config.attribute_map.items() if k in fields and v not in fields}
    named = {aliases.get(k, k): v for k, v in values.items()}
    return {k: v for k, v in named.items() if k in fields}


def _small(key: str, value: Any, layers: int, chosen: list[int]) -> Any:
    if isinstance(value, (bool, str)):
        return DECODER.get((key, value), value)
    if LAYER_COUNT.fullmatch(key) and isinstance(value, int):
        return len(chosen)
    if _is_per_layer(value, layers):
        return [_number(key, value[i]) for i in chosen]
    if _is_of_layers(key, value, layers):
        return [i for i, layer in enumerate(chosen) if layer in value]
    if isinstance(value, dict) and "rope" in key:
        return _small_rope(value)
    return _number(key, value)


def _choose_layers(values: dict[str, Any], layers: int) -> list[int]:
    """The first layer of each kind, in order, and enough others."""
    kinds = [v for v in values.values() if _is_per_layer(v, layers)]
    kinds = [v for v in kinds if len({str(x) for x in v}) <= 4]
    members = [v for k, v in values.items() if _is_of_layers(k, v, layers)]
    seen: list[tuple[Any, ...]] = []
    chosen = []
    for layer in range(layers):
        kind = (*(str(v[layer]) for v in kinds), *(layer in v for v in members))
        if kind not in seen:
            seen.append(kind)
            chosen.append(layer)
    rest = [i for i in range(layers) if i not in chosen]
    return sorted(chosen[:MOST_LAYERS] + rest[: max(0, LEAST_LAYERS - len(chosen))])


def _is_per_layer(value: Any, layers: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == layers > 1


def _is_of_layers(key: str, value: Any, layers: int) -> bool:
    """A list of the numbers of some layers."""
    named = re.fullmatch(r".*_layers|.*_idxs|.*_ids|.*_indices", key)
    return bool(
        named
        and isinstance(value, (list, tuple))
        and all(isinstance(v, int) and v < layers for v in value)
        and len(value) > 0
    )


def _small_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters for a head of `HEAD`: sections of its half, frequencies as they are."""
    small = {k: _small_rope(v) if isinstance(v, dict) else v for k, v in rope.items()}
    if "mrope_section" in small:
        small["mrope_section"] = [HEAD // 4, HEAD // 8, HEAD // 8]
    return small


def _number(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if TOKEN_ID.fullmatch(key):
        return value if value < SPECIAL else SPECIAL + value % (VOCABULARY - SPECIAL)
    for pattern, small in RULES:
        if re.fullmatch(pattern, key):
            return small
    return value


def documents(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random documents of ids that are neither special nor padding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, SPECIAL, (n,), generator=generator).tolist() for n in lengths]
