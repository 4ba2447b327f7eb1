"""Exceptions of single types from the rules of the zoo, each with its reason."""

from __future__ import annotations

from typing import Any

#: Sparse attention and n-gram embeddings, both off in the default configuration.
QWEN4_INDEX = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "eos_token_id": 2,  # n-grams start anew behind it
    "ple_layer_ids": [1],
    "ple_embed_dim": 64,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 500,
    "split_ngram_parts": 1,
}

#: Keys of a type's configuration beside the rules; a nested mapping is for a nested configuration.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    # The default has one kind of layer only, checkpoints have two.
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "mamba_d_head": 16,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "laguna": {"layer_types": ["full_attention", "sliding_attention"]},
    "mellum": {"layer_types": ["full_attention", "sliding_attention"]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "zaya": {
        "layer_types": ["hybrid", "hybrid_sliding"],
        "num_experts_per_tok": 1,  # the only value that its code takes
    },
    # Layers follow from a period, not from a list.
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "attention_layers": ["global", "local"],
    },
    "bailing_hybrid": {"layer_group_size": 2},
    "dory": {
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "num_hidden_layers": 4,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
    },
    # The last layers use keys and values of the last unshared one of their kind.
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
        "intermediate_size": [96] * 4,
    },
    # The default says nothing of the number of experts.
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    # Sizes that have to agree with one another.
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attention_head_dim": 32,
    },
    "longcat_flash": {"zero_expert_num": 2},
    "reformer": {"hash_seed": 0, "axial_pos_shape": (16, 32), "axial_pos_embds_dim": (32, 32)},
    "xlstm": {"qk_dim_factor": 1.0},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "mpt": {"attn_config": {"attn_pdrop": 0}},
    "qwen4_exp_text": QWEN4_INDEX,
    "qwen4_exp": {"text_config": QWEN4_INDEX},
    # Languages are adapters; one has to be chosen.
    "xmod": {"default_language": "en_XX"},
}

#: Types that cannot stand alone as a causal language model of text, and why.
NOT_BUILT: dict[str, str] = {
    "gemma4_assistant": "a drafting head: it reads keys and values of another model",
    "gemma4_unified_assistant": "a drafting head: it reads keys and values of another model",
    "musicgen": "predicts codes of sound, several a step, given a text encoder",
    "musicgen_melody": "predicts codes of sound, several a step, given a text encoder",
}
