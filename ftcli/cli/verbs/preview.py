"""`ftcli preview`: rows as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from ftcli.data.preview import Sample

GROUP = "Inspect"
LEARNED, MASKED, SPECIAL, WRONG = "green", "dim", "bold", "bold red"
OPEN, CLOSE = "⟦", "⟧"  # around what is learned, where there are no colours


def preview(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    count: Annotated[int, typer.Option("-n", help="How many rows of each source.", min=1)] = 3,
    split: Annotated[
        str, typer.Option(help="train, validation, test, or a name of data.eval_sets.")
    ] = "train",
    to: Annotated[Path, typer.Option(help="Picture of examples that are no text.")] = Path(
        "preview.png"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rendered rows: what is learned, what is only context, where documents meet."""
    from ftcli.cli.job_data import open_data
    from ftcli.core.console import console, emit
    from ftcli.data.preview import read_samples

    with open_data(job, overrides or []) as (data, tokenizer):
        if hasattr(data, "preview"):
            _show_picture(data.preview(split, tokenizer, count, to), to, as_json)
            return
        rows = read_samples(data, tokenizer, count, split)
        shares = data.plan_shares() if split == "train" else []

    def render() -> None:
        out = console()
        coloured = out.color_system is not None and not out.no_color
        out.print(_legend(coloured), "\n")
        for line in shares:
            out.print(f"source  {line}", markup=False)
        for number, sample in enumerate(rows):
            if number:
                out.print(_boundary(data.packing), style="cyan")
            out.print(_render_sample(sample, coloured), "\n")

    emit([sample.as_dict() for sample in rows], as_json, render)


def _show_picture(examples: list[Any], to: Path, as_json: bool) -> None:
    """Data that are no text draw themselves; the lines say what was drawn."""
    from ftcli.core.console import console, emit
    from ftcli.core.escaping import escape_controls

    def render() -> None:
        for example in examples:
            console().print(
                escape_controls(str(example)), soft_wrap=True, markup=False, highlight=False
            )
        console().print(f"picture: {to}", soft_wrap=True)

    emit([example.as_dict() for example in examples], as_json, render)


def _legend(coloured: bool) -> Text:
    from rich.text import Text

    if not coloured:
        return Text(f"{OPEN}learned{CLOSE}  context (not learned)  <|special token|>")
    return Text.assemble(
        ("learned", LEARNED), "  ", ("context (not learned)", MASKED), "  ",
        ("<|special token|>", SPECIAL),
    )  # fmt: skip


def _boundary(packing: str) -> str:
    if packing == "none":
        return "──── next row (rows are padded on the right to the longest of their batch)"
    return "──── next document: positions and attention begin anew, though both lie in one row"


def _render_sample(sample: Sample, coloured: bool) -> Text:
    from rich.text import Text

    from ftcli.core.escaping import escape_controls
    from ftcli.data.chat_templates.dropped_content import BY_DESIGN, DROP_KINDS

    text = Text()
    origin = escape_controls(sample.origin)
    origin = f"{sample.source}  {origin}" if sample.source else origin
    text.append(f"{origin}  {sample.tokens:,} tokens, {sample.learned:,} learned\n", "bold")
    open_ = False
    for stretch in sample.stretches:
        if not coloured and stretch.learned != open_:
            text.append(CLOSE if open_ else OPEN)
            open_ = stretch.learned
        style = LEARNED if stretch.learned else MASKED
        shown = escape_controls(stretch.text)
        text.append(shown, f"{style} {SPECIAL}" if stretch.special else style)
    text.append(CLOSE if open_ else "")
    for kind in sample.dropped_content:
        text.append(f"\n{kind}: {(DROP_KINDS | BY_DESIGN)[kind]}", WRONG)
    if not sample.learned:
        text.append("\nnothing in this row is learned", WRONG)
    elif not sample.ends:
        text.append("\nthe last learned token ends no turn: the model may not learn to stop", WRONG)
    return text
