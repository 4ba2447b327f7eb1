"""docs/models.md from the results of every type: `python -m tests.models.models_page docs/models.md`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from .every_type import LIMIT, MODES, Result, examine
from .zoo import types

COLUMNS = ("type", "packing=auto", "flat, bins", "generation", "LoRA, PEFT, merge", "experts")
PACKAGES = ("transformers", "torch", "peft")


def page(results: Sequence[Result]) -> str:
    """The whole page."""
    built = [r for r in results if not r.reason]
    right = [r for r in built if all(step == "right" for step in r.steps.values())]
    faults = [r for r in built if r.faults]
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        "# Models",
        "",
        "Every type in the causal-LM mapping of transformers, built small from its configuration with",
        "every kind of layer that it has, and with random weights. The table is written by",
        "`python -m tests.models.models_page`; the same results are the slow test",
        f"`tests/models/test_every_type.py`. Measured with {packages}, float32 on a CPU.",
        "",
        f"Each of {len(MODES)} ways of batching, left-padded generation, and LoRA through saving, loading",
        f"by plain PEFT and merging is compared with each document alone in the library: {LIMIT:g} nats a",
        "token or less is right. Every other way is refused by one message before training.",
        "",
        "Models that are stored quantised, GGUF among them: [quantised_models.md](quantised_models.md).",
        "",
        f"{len(results)} types: {len(built)} built, {len(right)} right in every way, "
        f"{len(built) - len(right) - len(faults)} right with ways that are refused, {len(faults)} with a "
        f"known fault, {len(results) - len(built)} not built.",
        "",
        "- **packing=auto**: what the default becomes. `library`: with the attention of transformers.",
        "  `one_row_per_forward`: each row of a batch in its own forward pass.",
        "- **generation**: how prompts are batched. `padded`: on the left; `equal`: prompts of one length",
        "  together; `single`: one at a time.",
        "- **experts**: stacked experts and whether LoRA on all linear layers reaches them; in brackets",
        "  what else is left out, routers aside.",
        "- **looks ahead**: predictions depend on later tokens, so the loss means little.",
        "",
        _row(COLUMNS),
        _row(["---"] * len(COLUMNS)),
        *(_row(_cells(r)) for r in built),
        "",
        "## Not built",
        "",
        _row(("type", "reason")),
        _row(("---", "---")),
        *(_row((r.kind, _inert(r.reason))) for r in results if r.reason),
    ]
    return "\n".join(lines) + "\n"


def _cells(result: Result) -> list[str]:
    kind = f"{result.kind} (looks ahead)" if result.looks_ahead else result.kind
    adapters = [result.steps[s] for s in ("lora", "plain peft", "merge") if s in result.steps]
    none = [v for k, v in result.steps.items() if k.startswith("none") or k == "auto"]
    return [
        kind,
        _auto(result) if all(v == "right" for v in none) else _worst(none),
        _worst([result.steps["flat"], result.steps["bins"]]),
        _decoding(result),
        _worst(adapters),
        _experts(result),
    ]


def _auto(result: Result) -> str:
    if result.auto is None:
        return "-"
    words = [result.auto.packing]
    words += ["library"] if result.auto.attention == "library" else []
    words += (
        [result.auto.document_isolation] if result.auto.document_isolation != "attention" else []
    )
    return ", ".join(words)


def _decoding(result: Result) -> str:
    step = result.steps["generation"]
    if step != "right" or result.decoding is None:
        return _worst([step])
    words = [result.decoding.batch] + ([] if result.decoding.cache else ["no cache"])
    return ", ".join(words)


def _worst(steps: Sequence[str]) -> str:
    """The first outcome that is not right, in short."""
    wrong = next((s for s in steps if s != "right"), "right")
    return _inert(wrong) if wrong.startswith(("wrong", "traceback")) else wrong.partition(":")[0]


def _experts(result: Result) -> str:
    frozen = [item for item in result.left_out if "router" not in item.reason]
    stacks = [item for item in frozen if "experts" in item.pattern and item.share > 0.05]
    text = "" if not result.experts else "left out" if stacks else "reached"
    rest = [f"{i.pattern.rpartition('*.')[2]} {i.share:.1%}" for i in frozen]
    return f"{text} ({', '.join(rest)})".strip() if rest else text


def _inert(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:120]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(path: str) -> None:
    """Examine every type and write the page."""
    results = []
    for kind in types():
        with tempfile.TemporaryDirectory() as folder:
            results.append(examine(kind, Path(folder)))
        print(f"{kind}: {results[-1].reason or results[-1].steps}", flush=True)
    Path(path).write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
