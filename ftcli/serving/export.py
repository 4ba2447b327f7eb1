"""Export a trained run for other programs: merged safetensors, or GGUF for llama.cpp."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.deltas.merge import MergeReport, is_quantised, merge_run, refuse_existing, save_model

if TYPE_CHECKING:
    from ftcli.core.run import Run

FORMATS = ("hf", "safetensors", "gguf")


@dataclass(frozen=True)
class AdapterReport:
    """Two GGUF files: the base on which the adapter was trained, and the adapter."""

    base: str
    folder: str  # the adapter's file
    bytes: int  # of the adapter
    weights: int  # that it changes

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        return asdict(self)

    def sentence(self) -> str:
        """Return one line for the terminal."""
        return (
            f"base {self.base}, adapter {self.folder} ({self.bytes / 1e6:.1f} MB) for "
            f"{self.weights} weights: llama-cli -m {self.base} --lora {self.folder}"
        )


def export_run(
    path: str | Path, form: str, output: str | Path | None = None, checkpoint: str = "last",
    adapter: bool = False,
) -> MergeReport | AdapterReport:  # fmt: skip
    """Write the run's merged model as `form`; hf and safetensors are the same folder.

    Args:
        adapter: for gguf, write base and LoRA as two files instead of a merged one.

    Raises:
        UserError: the format is unknown, the converter is not installed (checked first), or llama.cpp
            does not support this model or adapter.
    """
    if form not in FORMATS:
        raise UserError(
            f"{form}: no such format.", where="--to", fix=f"one of {', '.join(FORMATS)}, hub"
        )
    target = locate_target(path, form, output)
    if form != "gguf":
        if adapter:
            raise UserError(
                f"the adapter is in {Path(path) / 'adapter'} already, as PEFT and others read it.",
                where="--adapter",
                fix=f"ftcli export {path} --to gguf --adapter",
            )
        refuse_written(target)
        return merge_run(path, target, checkpoint)
    from ftcli.serving.gguf import require_converter

    require_converter()
    if adapter:
        return _export_base_and_adapter(path, target, checkpoint)
    return _export_merged(path, target, checkpoint)


def locate_target(path: str | Path, form: str, output: str | Path | None) -> Path:
    """Return the folder to write; for gguf the beginning of the names of its file and folder."""
    if output:
        return Path(output).with_suffix("") if form == "gguf" else Path(output)
    folder = Path(path) / "export" / form
    return folder / "model" if form == "gguf" else folder


def refuse_written(*places: Path) -> None:
    """Refuse files, and folders with content; `--to` of an export is the format, so `--output` is named.

    Raises:
        UserError: an earlier export, or something else, is there.
    """
    try:
        for place in places:
            refuse_existing(place)
    except UserError as error:
        raise UserError(
            error.what, where="--output", fix="--output ANOTHER, or remove what is there"
        ) from error


def _export_merged(path: str | Path, target: Path, checkpoint: str) -> MergeReport:
    from ftcli.serving.gguf import write_model

    folder, file = Path(f"{target}-hf"), Path(f"{target}.gguf")
    refuse_written(folder, file)
    report = merge_run(path, folder, checkpoint)
    write_model(folder, file, *_prompt_settings(path))
    return replace(report, folder=str(file), bytes=file.stat().st_size)


def _export_base_and_adapter(path: str | Path, target: Path, checkpoint: str) -> AdapterReport:
    from ftcli.run.build import open_run
    from ftcli.serving.gguf import write_model
    from ftcli.serving.gguf_lora import read_factors, write_adapter

    folder = Path(f"{target}-base-hf")
    base, lora = Path(f"{target}-base.gguf"), Path(f"{target}-lora.gguf")
    refuse_written(folder, base, lora)
    run = open_run(path, checkpoint=checkpoint)
    trained = read_factors(run)
    save_model(_without_adapter(run), run.tokenizer, folder)
    write_model(folder, base, *_prompt_settings(path))
    write_adapter(trained, folder, base, lora)
    return AdapterReport(str(base), str(lora), lora.stat().st_size, len(trained))


def _without_adapter(run: Run) -> Any:
    """Return the base on which the adapter was trained: dequantised, and as the adapter's initialisation left it."""
    if not is_quantised(run.model):
        return run.model.unload()
    base = run.model_source.load()
    return base.dequantize(dtype=base.dtype)


def _prompt_settings(path: str | Path) -> tuple[Any, bool]:
    """Return the run's tokenizer, and whether its prompts start with the beginning-of-text token."""
    from ftcli.config import load
    from ftcli.core.run_dir import RunDir
    from ftcli.run.build import build_run
    from ftcli.serving.chat import Chat

    run_dir = RunDir.open(path)
    run = build_run(load(run_dir.path / "config.yaml").config, run_dir)
    start = run.tokenizer.bos_token_id
    return run.tokenizer, start is not None and Chat(run).render("x")[:1] == [start]
