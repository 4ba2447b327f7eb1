"""`ftcli export`: a trained run in the format of other programs, or on the hub."""

from __future__ import annotations

from typing import Annotated, Any

import typer

GROUP = "After training"


def export(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    to: Annotated[
        str, typer.Option(help="hf (safetensors for transformers, vLLM, ...), gguf or hub.")
    ],
    output: Annotated[
        str | None, typer.Option(help="Where; RUN/export/<format> if absent.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of gguf: base and LoRA as two files, not merged.")
    ] = False,
    repo: Annotated[str | None, typer.Option(help="Of hub: OWNER/NAME.")] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Of hub: base and adapter as one model.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Of hub: a new repository is private.")
    ] = False,
    license: Annotated[str | None, typer.Option(help="Of hub: id of the model's licence.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of hub: show card and files, send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge, check, and write the model for other programs, or publish it on the hub."""
    from ftcli.core.console import console, emit

    of_hub = {"--repo": repo, "--merged": merged, "--private": private,
              "--license": license, "--dry-run": dry_run}  # fmt: skip
    report: Any
    if to == "hub":
        _refuse({"--output": output, "--adapter": adapter}, f"--to {to}")
        report = _publish(run, repo, checkpoint, merged, private, license, dry_run)
    else:
        _refuse(of_hub, f"--to {to}")
        from ftcli.serving.export import export_run

        report = export_run(run, to, output, checkpoint=checkpoint, adapter=adapter)
    emit(report.as_dict(), as_json, lambda: console().print(report.sentence(), markup=False))


def _publish(run: str, repo: str | None, *options: Any) -> Any:
    from ftcli.core.errors import UserError
    from ftcli.serving.hub import publish_run

    if repo is None:
        raise UserError("no repository is named.", "--to hub", "--repo OWNER/NAME")
    return publish_run(run, repo, *options)


def _refuse(options: dict[str, Any], where: str) -> None:
    """Refuse options that the format does not read."""
    from ftcli.core.errors import UserError

    given = [name for name, value in options.items() if value]
    if given:
        raise UserError(f"{', '.join(given)} has no meaning here.", where, "leave it out")
