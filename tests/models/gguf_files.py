"""GGUF files for tests: a small Llama in the layout of llama.cpp, written by the gguf package."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcli.models.hub import ASSETS

MINI = ASSETS / "models" / "llama_mini"
TENSORS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_llama_mini(
    file: Path,
    kind: str = "Q8_0",
    architecture: str = "llama",
    splitting: str = "smollm",
    divisors: list[float] | None = None,
    left_out: str = "",
    num_merges: int | None = None,
) -> Path:
    """Write the shipped Llama as GGUF, its matrices as one type.

    Args:
        kind: type of the matrices, by ggml's name.
        architecture, splitting: general.architecture and tokenizer.ggml.pre.
        divisors: of the rotary frequencies, as files of Llama 3 hold them.
        left_out: a tensor that is not written.
        num_merges: number of the tokenizer's merges that are written; None: all.
    """
    model = AutoModelForCausalLM.from_pretrained(MINI).float()
    writer = gguf.GGUFWriter(file, architecture)
    _write_settings(writer, model.config)
    _write_tokenizer(writer, splitting, num_merges)
    for name, tensor in model.state_dict().items():
        written = _rename(name)
        if written in ("output.weight", left_out):  # tied to the embeddings
            continue
        values = _order_rotary(name, tensor.numpy(), model.config)
        _add(writer, written, values, kind)
    if divisors:
        writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_settings(writer: gguf.GGUFWriter, config) -> None:
    writer.add_name("llama mini")
    writer.add_license("apache-2.0")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, splitting: str, num_merges: int | None) -> None:
    content = json.loads((MINI / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["id"] for token in content["added_tokens"]}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([kinds.CONTROL if i in special else kinds.NORMAL for _, i in vocabulary])
    merges = content["model"]["merges"][:num_merges]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_eot_token_id(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _rename(name: str) -> str:
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }  # fmt: skip
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{TENSORS[rest.removesuffix('.weight')]}.weight"


def _order_rotary(name: str, values: np.ndarray, config) -> np.ndarray:
    """Order the rows of queries and keys as llama.cpp's rotary embedding reads them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((n for part, n in heads.items() if part in name), None)
    if count is None:
        return values
    halves = values.reshape(count, 2, len(values) // count // 2, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if values.ndim == 1 or kind == "F32":
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
        return
    stored = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(values, stored), raw_dtype=stored)
