"""The ceiling of a training step: its matrix products alone, each measured by itself on this machine.

Products of LoRA beside frozen weights are forward and the gradient of the input (no gradient of the weight),
those of A and B all three; the head counts at labels only. Attention's products are left out: they depend on the
lengths and on the kernel. The share of a program is this time over the time of its step.

    python benchmarks/ceiling.py --shape tiny --precision bf16
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from workload import SHAPES, Shape

RANK = 16
SECONDS = 0.3  # at least, for each product


class Product(NamedTuple):
    """One matrix product [m, k] x [k, n]; `transposed` where the right side is a weight read as its transpose."""

    m: int
    k: int
    n: int
    transposed: bool = False

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


def list_linears(shape: Shape) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of the linear layers of one block."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query = shape.num_attention_heads * shape.head_dim
    key = shape.num_key_value_heads * shape.head_dim
    attention = [(hidden, query), (hidden, key), (hidden, key), (query, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]


def count_products(shape: Shape, tokens: int, labels: int, rank: int) -> Counter[Product]:
    """Return product -> how often a step of LoRA on all linear layers computes it.

    Args:
        tokens: of a step.
        labels: positions of a step at which there are logits.
    """
    counts: Counter[Product] = Counter()
    layers = shape.num_hidden_layers
    for inputs, outputs in list_linears(shape):
        counts[Product(tokens, inputs, outputs, transposed=True)] += layers  # x W^T
        counts[Product(tokens, outputs, inputs)] += layers  # gradient of x
        counts[Product(tokens, inputs, rank, transposed=True)] += layers  # x A^T
        counts[Product(tokens, rank, outputs, transposed=True)] += layers  # times B^T
        counts[Product(tokens, outputs, rank)] += layers  # gradient of x A^T
        counts[Product(tokens, rank, inputs)] += layers  # its part of the gradient of x
        counts[Product(rank, tokens, inputs)] += layers  # gradient of A
        counts[Product(outputs, tokens, rank)] += layers  # gradient of B
    counts[Product(labels, shape.hidden_size, shape.vocab_size, transposed=True)] += 1
    counts[Product(labels, shape.vocab_size, shape.hidden_size)] += 1
    return counts


def time_product(product: Product, dtype: str, device: str) -> float:
    """Return the seconds of one product, the least of several blocks of repetitions."""
    import torch

    kind = getattr(torch, dtype)
    left = torch.randn(product.m, product.k, device=device, dtype=kind)
    right = torch.randn(product.k, product.n, device=device, dtype=kind)
    if product.transposed:
        right = right.t().contiguous().t()

    def repeat(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    repeat(3)
    times = max(1, int(SECONDS / 5 / max(repeat(1), 1e-6)))
    return min(repeat(times) for _ in range(5))


def sum_ceiling(
    counts: Mapping[Product, int], seconds: Mapping[Product, float]
) -> dict[str, float]:
    """Return seconds and operations of all products of a step, and operations a second in GFLOP/s."""
    spent = sum(count * seconds[product] for product, count in counts.items())
    flops = sum(count * product.flops for product, count in counts.items())
    return {"ceiling_s": spent, "gflop": flops / 1e9, "gflop_s": flops / 1e9 / spent}


def read_shape(folder: Path) -> Shape:
    """Return the shape of a Llama in a folder, from its config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Shape(**{name: config[name] for name in Shape.__dataclass_fields__})


def main() -> None:
    """Measure one shape and print its ceiling."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", required=True, help=f"{', '.join(SHAPES)}, or a folder with config.json"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--tokens", type=int, default=660, help="of a step")
    parser.add_argument("--labels", type=int, default=250, help="of a step")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import torch

    shape = SHAPES.get(options.shape) or read_shape(Path(options.shape))
    counts = count_products(shape, options.tokens, options.labels, RANK)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if options.precision == "bf16" else "float32"
    seconds = {product: time_product(product, dtype, device) for product in counts}
    result = sum_ceiling(counts, seconds) | {"step_tokens": options.tokens}
    result["ceiling_tok_s"] = options.tokens / result["ceiling_s"]
    print(json.dumps(result) if options.json else format_products(counts, seconds, result))


def format_products(
    counts: Mapping[Product, int], seconds: Mapping[Product, float], result: Mapping[str, float]
) -> str:
    """Return a line a product, and one of the whole step."""
    lines = []
    for product, count in counts.items():
        each = seconds[product]
        lines.append(
            f"{product.m:>6} x {product.k:>6} x {product.n:>6}  {count:>4} times  "
            f"{each * 1e6:>9,.0f} us  {product.flops / each / 1e9:>7,.0f} GFLOP/s"
        )
    lines.append(
        f"{result['ceiling_s']:.4f} s a step of {result['step_tokens']} tokens: "
        f"{result['ceiling_tok_s']:,.0f} tokens/s at {result['gflop_s']:,.0f} GFLOP/s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
