"""Records of the benchmarks as markdown, and the blocks of docs/performance.md that are filled with them.

A block of the page stands between `<!-- NAME -->` and `<!-- end NAME -->`; nothing in it is written by hand.

    python benchmarks/table.py build/side_by_side.json                        # prints
    python benchmarks/table.py build/side_by_side.json --write                # fills the page
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs/performance.md"
TITLES = {
    "ftcli": "ftcli",
    "plain": "plain transformers + peft",
    "torchtune": "torchtune",
    "trl": "TRL, packing",
}
KINDS = (  # of results; blocks of the page
    "side_by_side", "main_job", "main_job_memory", "growth", "data", "decode", "gpu",
)  # fmt: skip
Record = Mapping[str, Any]
Row = tuple[str, str]  # shape and precision


def median_figures(records: Iterable[Record]) -> dict[Row, dict[str, dict[str, float]]]:
    """Return (shape, precision) -> program -> figure -> median over the rounds that ended well."""
    found: dict[Row, dict[str, list[Record]]] = {}
    for record in records:
        if "tok_s" in record:
            row = found.setdefault((record["shape"], record["precision"]), {})
            row.setdefault(record["program"], []).append(record)
    return {
        row: {name: _medians(rounds) for name, rounds in programs.items()}
        for row, programs in found.items()
    }


def _medians(rounds: Sequence[Record]) -> dict[str, float]:
    numbers = [key for key, value in rounds[0].items() if isinstance(value, int | float)]
    return {key: statistics.median(r[key] for r in rounds if key in r) for key in numbers}


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_side_by_side(result: Record) -> str:
    """Return the tables of speed, memory, first step and commands, with what was measured."""
    medians = median_figures(result["records"])
    ceilings = {
        (r["shape"], r["precision"]): r for r in result["records"] if r["program"] == "ceiling"
    }
    programs = [name for name in TITLES if any(name in row for row in medians.values())]
    parts = [_describe(result), _speed(medians, ceilings, programs)]
    for key, title in (("peak_mb", "peak RSS, MB"), ("first_step_s", "first step, s")):
        parts.append(_figure(medians, programs, key, title))
    commands = [r for r in result["records"] if "command" in r]
    if commands:
        rows = [[f"`{r['program']} {r['command']}`", f"{r['seconds']:.2f}"] for r in commands]
        parts.append(format_table(["command", "s"], rows))
    errors = {
        f"{r['program']}, {r['shape']} {r['precision']}: {r['error']}"
        for r in result["records"]
        if "error" in r
    }
    return "\n\n".join([*parts, *sorted(errors)])


def _describe(result: Record) -> str:
    machine = result["machine"]
    rows = next((r["rows"] for r in result["records"] if "rows" in r), None)
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    text = f"{machine['device']}, {machine['threads']} threads; {packages}; medians of {machine['rounds']} rounds."
    if rows:
        text += (
            f" Rows: mean {rows['mean_length']:.0f} tokens, p90 {rows['p90_length']:.0f}, longest "
            f"{rows['longest']}, {rows['label_share']:.0%} of the tokens learned."
        )
    if machine["missing"]:
        text += f" Not installed, so not measured: {', '.join(machine['missing'])}."
    return text


def _speed(
    medians: Mapping[Row, Mapping[str, Mapping[str, float]]],
    ceilings: Mapping[Row, Record],
    programs: Sequence[str],
) -> str:
    others = [name for name in programs if name != "ftcli"]
    head = ["tokens/s", *(TITLES[name] for name in programs), *(f"to {name}" for name in others)]
    rows = []
    for key, row in medians.items():
        own = row.get("ftcli", {}).get("tok_s")
        line = [" ".join(key), *(_number(row.get(name, {}).get("tok_s")) for name in programs)]
        line += [_ratio(own, row.get(name, {}).get("tok_s")) for name in others]
        ceiling = ceilings.get(key, {})
        line += [_number(ceiling.get("gflop_s")), _ratio(own, ceiling.get("ceiling_tok_s"))]
        rows.append(line)
    return format_table([*head, "ceiling, GFLOP/s", "ftcli's share"], rows)


def _figure(
    medians: Mapping[Row, Mapping[str, Mapping[str, float]]],
    programs: Sequence[str],
    key: str,
    title: str,
) -> str:
    rows = []
    for name, row in medians.items():
        found = [row.get(program, {}).get(key) for program in programs]
        own, plain = (row.get(program, {}).get(key) for program in ("ftcli", "plain"))
        rows.append([" ".join(name), *map(_number, found), _ratio(own, plain)])
    return format_table([title, *(TITLES[name] for name in programs), "to plain"], rows)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(own: float | None, other: float | None) -> str:
    return f"{own / other:.2f}" if own and other else ""


def format_record(record: Record) -> str:
    """Return one line for the terminal while the rounds go on."""
    where = f"{record['shape']:<12} {record['precision']:<5} {record['program']:<10}"
    if "error" in record:
        return f"{where} {record['error']}"
    return (
        f"{where} {record['tok_s']:>8,.0f} tokens/s  {record['peak_mb']:>7,.0f} MB  "
        f"first step {record['first_step_s']:.1f} s"
    )


def fill_block(page: str, name: str, content: str) -> str:
    """Return the page with the content of one block replaced.

    Raises:
        ValueError: the page has no such block.
    """
    pattern = re.compile(
        rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL
    )
    if not pattern.search(page):
        raise ValueError(f"the page has no block '{name}'")
    return pattern.sub(lambda found: f"{found[1]}{content.strip()}\n{found[2]}", page)


def format_result(result: Record) -> dict[str, str]:
    """Return block -> content for the results of any benchmark of this folder, by its `kind`."""
    kind = result.get("kind", "side_by_side")
    if kind == "side_by_side":
        return {kind: format_side_by_side(result)}
    head = result["columns"]
    rows = [[_cell(record.get(column)) for column in head] for record in result["records"]]
    return {kind: "\n\n".join([result["text"], format_table(head, rows)])}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str("" if value is None else value)


def main() -> None:
    """Print the tables of result files, and fill the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true", help="fill docs/performance.md")
    options = parser.parse_args()
    for path in options.results:
        for name, content in format_result(json.loads(path.read_text(encoding="utf-8"))).items():
            print(content, end="\n\n")
            if options.write:
                page = PAGE.read_text(encoding="utf-8")
                PAGE.write_text(fill_block(page, name, content), encoding="utf-8")


if __name__ == "__main__":
    main()
