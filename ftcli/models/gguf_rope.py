"""The scaling of rotary frequencies in a GGUF file, which transformers 5.24 reads for gpt-oss alone."""

from __future__ import annotations

import math
from typing import Any

FREQUENCIES = "rope_freqs.weight"
UNKNOWN = "unknown"  # a rope_type for factors that no parameters here give
#: Parameters of all Llama 3.1, 3.2 and 3.3 models besides the factor (their config.json).
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def read_rope_scaling(reader: Any, architecture: str) -> dict[str, Any]:
    """Return the scaling as `rope_parameters` of transformers; empty where the file has none.

    llama.cpp stores linear and YaRN scaling as values, and Llama 3's as one divisor a frequency, from
    which the factor is read; the other parameters are then compared with the divisors.

    Args:
        reader: of the gguf package.
    """

    def read(key: str) -> Any:
        field = reader.get_field(f"{architecture}.rope.{key}")
        return None if field is None else field.contents()

    divisors = [t.data.tolist() for t in reader.tensors if t.name == FREQUENCIES]
    if divisors:
        return _recognise_llama3(divisors[0], float(read("freq_base") or 10000.0))
    kind = read("scaling.type")
    if kind in (None, "none"):
        return {}
    scaling = {"rope_type": kind, "factor": float(read("scaling.factor") or 1.0)}
    if kind == "linear":
        return scaling
    original = read("scaling.original_context_length")
    if kind == "yarn" and original:
        return scaling | {"original_max_position_embeddings": int(original)}
    return {"rope_type": UNKNOWN}


def _recognise_llama3(divisors: list[float], base: float) -> dict[str, Any]:
    factor = round(max(divisors), 4)
    scaling = {"rope_type": "llama3", "factor": factor, **LLAMA3}
    expected = compute_llama3_divisors(len(divisors), base, factor)
    alike = all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(divisors, expected, strict=True))
    return scaling if alike else {"rope_type": UNKNOWN}


def compute_llama3_divisors(count: int, base: float, factor: float) -> list[float]:
    """Return the divisor of each rotary frequency, the fastest first (`_compute_llama3_parameters`)."""
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    divisors = []
    for i in range(count):
        turns = LLAMA3["original_max_position_embeddings"] * base ** (-i / count) / (2 * math.pi)
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors
