"""The result of `ftcli bench` as text: what was measured, on what, and a line a figure."""

from __future__ import annotations

from typing import Any

TITLES = {
    "tok_s": "tokens/s, padding not counted",
    "growth_mb": "growth of peak memory, MB",
    "first_step_s": "seconds to the end of the first step",
}


def format_bench(result: dict[str, Any]) -> str:
    """Return the lines for the terminal; with a second loop also its figures and the ratio to it."""
    loops: list[str] = [name for name in ("ftcli", "plain") if name in result]
    ratios = result.get("ratio", {})
    lines = [_describe(result), "", _line("", loops, "ratio" if ratios else "")]
    for key, title in TITLES.items():
        if key in result["ftcli"]:
            figures = [f"{result[name][key]:,.1f}" for name in loops]
            ratio = f"{ratios[key]:.2f}" if key in ratios else ""
            lines.append(_line(title, figures, ratio))
    return "\n".join(lines)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' * (number != 1)}"


def _line(title: str, figures: list[str], ratio: str) -> str:
    return f"{title:38}{''.join(f'{figure:>12}' for figure in figures)}{ratio:>8}".rstrip()


def _describe(result: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in result["packages"].items())
    lengths = ""
    if "longest" in result:
        lengths = (
            f" of {result['mean_length']:.0f} tokens on average, {result['longest']:,} at most"
        )
    stored = result["dtype"] if result["stored_as"] == "none" else result["stored_as"]
    return (
        f"{result['model']} ({stored}), {result['method']}, {result['precision']}, on "
        f"{result['device']} with {_count(result['threads'], 'thread')}\n"
        f"{result['rows_a_step']} rows a step, from {result['rows']:,} rows{lengths}\n"
        f"medians of {_count(result['rounds'], 'round')} of {result['steps']} steps; {packages}"
    )
