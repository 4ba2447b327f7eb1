"""Merge the adapter of a run into its base, check the logits, and save one plain model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.deltas.agreement import (
    ROUNDING,
    Agreement,
    Row,
    choose_rounding_tolerance,
    compare_logits,
    compute_hidden_states,
    compute_logits,
    locate_difference,
)
from ftcli.deltas.tied import merge_untied
from ftcli.models.anatomy import Anatomy
from ftcli.models.generation import save_generation
from ftcli.models.heads import name_classes

if TYPE_CHECKING:
    from ftcli.core.run import Run

ROWS, LONGEST = 8, 256


@dataclass(frozen=True)
class MergeReport:
    """The written model, and its difference from the trained one.

    Attributes:
        checked_dtype: dtype of the weights when the merge itself was checked.
        max_difference: largest difference of a logit in that dtype; `tolerance` was allowed.
        stored_difference: largest difference of a logit between the written model, in its own dtype,
            and the model as it was trained (quantised, or rounded).
        same_choice: share of positions where the written model has the same most likely token.
    """

    folder: str
    bytes: int
    rows: int
    checked_dtype: str
    max_difference: float
    tolerance: float
    stored_difference: float
    same_choice: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        return asdict(self)

    def sentence(self) -> str:
        """Return one line for the terminal."""
        return (
            f"merged into {self.folder} ({self.bytes / 1e6:.1f} MB): in {self.checked_dtype} logits of "
            f"{self.rows} rows differ by at most {self.max_difference:.2e} (allowed "
            f"{self.tolerance:.2e}), as written by {self.stored_difference:.2e}; same likeliest "
            f"token at {self.same_choice:.2%} of positions"
        )


def merge_run(
    path: str | Path,
    to: str | Path,
    checkpoint: str = "last",
    tolerance: float | None = None,
) -> MergeReport:
    """Write the run's model as one plain `transformers` folder with tokenizer.

    A quantised base is dequantised first: the adapter was trained on those weights and not on the
    original ones, and it is not rounded to 4 bits. The merge is computed and checked in float32, then
    rounded once to the dtype of the base, and compared again with the model as it was trained.

    Args:
        tolerance: largest allowed difference of a logit in float32; by default 1e-4 of the largest.

    Raises:
        UserError: `to` exists and is not empty, or merged and trained model differ too much.
    """
    from ftcli.run.build import open_run

    target = Path(to)
    refuse_existing(target)
    run = open_run(path, checkpoint=checkpoint)
    if not run.method.mergeable:
        raise UserError(
            "this method adds no change of weights, so there is nothing to merge.",
            where="method",
            fix=f"serve the adapter as it is: ftcli chat {path}",
        )
    with run.evaluation_weights():
        rows = _select_rows(run)
        trained, share = compute_logits(run.model, rows), choose_rounding_tolerance(run.model)
        merged, exact = _merge_model(run, rows, tolerance)
        if hasattr(run.data, "names"):
            name_classes(merged, run.data.names)
        stored = compare_logits(trained, compute_logits(merged, rows), share)
        if not stored.holds:
            raise _make_rounding_error(stored, merged.dtype)
        size = _save_merged(run, merged, target)
    return MergeReport(
        str(target), size, len(rows), exact.kind, exact.agreement.difference,
        exact.agreement.allowed, stored.difference, stored.same,
    )  # fmt: skip


def refuse_existing(target: Path) -> None:
    """Refuse to write over a file, or into a folder that has content.

    Raises:
        UserError: `target` exists.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already.", where="--to", fix="name a new folder")


@dataclass(frozen=True)
class ExactMerge:
    """Comparison of the merged model before its weights were rounded to their stored types."""

    kind: str
    agreement: Agreement


def _merge_model(run: Run, rows: list[Row], tolerance: float | None) -> tuple[Any, ExactMerge]:
    """Return the merged model in the types of the base, and its comparison with the trained one.

    Raises:
        UserError: the logits of the merged model differ too much.
    """
    model = load_dequantised(run)
    types, usual = read_stored_types(model), model.dtype
    if _fits_in_float32(model):
        model = model.float()
    share = ROUNDING.get(model.dtype, max(ROUNDING.values()))
    before, states = compute_logits(model, rows), compute_hidden_states(model, rows[0])
    merged = merge_untied(run.method, model)
    result = compare_logits(before, compute_logits(merged, rows), share, tolerance)
    if not result.holds:
        raise _make_mismatch_error(
            result, locate_difference(states, compute_hidden_states(merged, rows[0])), run
        )
    kind = str(merged.dtype).removeprefix("torch.")
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            parameter.data = parameter.data.to(types.get(name, usual))
    return merged, ExactMerge(kind, result)


def load_dequantised(run: Run) -> Any:
    """Return the trained model with its adapters on dequantised weights.

    Raises:
        UserError: this kind of quantised weights cannot be dequantised.
    """
    if not is_quantised(run.model):
        return run.model
    from accelerate.utils import set_seed

    set_seed(
        run.seed
    )  # as at the start of the run: some adapters hold random parts that are not trained
    base = run.model_source.load()
    try:
        plain = base.dequantize(dtype=base.dtype)
        _require_weights(plain)
    except (NotImplementedError, ValueError, AttributeError, ImportError) as error:
        raise UserError(
            f"the weights of {run.model_source.name} are stored quantised and cannot be turned back "
            f"to plain ones ({error}).",
            where="model.path",
            fix="serve the adapter on the quantised base, or train on the checkpoint before it was "
            "quantised",
        ) from error
    model = run.method.prepare(plain)
    run.method.load_trained_tensors(model, run.method.get_trained_tensors(run.model))
    return model.eval()


def _require_weights(model: nn.Module) -> None:
    """Check that dequantising left weights: of compressed-tensors transformers 5.24 leaves none, silently.

    Raises:
        ValueError: layers have none.
    """
    bare = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not hasattr(module, "weight")
    ]
    if bare:
        raise ValueError(f"transformers leaves {len(bare)} layers without weights, as {bare[0]}")


def read_stored_types(model: nn.Module) -> dict[str, torch.dtype]:
    """Return parameter of the base -> dtype; parameters that adapters add or copy are left out."""
    return {
        f"{name}.{key}": parameter.dtype
        for name, module in Anatomy(model).modules.items()
        for key, parameter in module.named_parameters(recurse=False)
    }


def _fits_in_float32(model: nn.Module) -> bool:
    """Whether free memory holds the model's weights converted to float32."""
    import psutil

    device = next(model.parameters()).device
    needed = sum(4 * p.numel() for p in model.parameters() if p.dtype != torch.float32)
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    return needed < 0.9 * free


def is_quantised(model: Any) -> bool:
    """Whether weights are stored in a quantised form."""
    return getattr(model.config, "quantization_config", None) is not None


def _select_rows(run: Run) -> list[Row]:
    """Return some training rows of the run; random tokens where its data cannot be read.

    Examples other than text are returned as inputs of the model.
    """
    if hasattr(run.data, "preview"):
        examples = run.data.prepare("train", run.tokenizer)
        places = sorted({i * len(examples) // ROWS for i in range(ROWS)})
        return [examples.batch([place])["inputs"] for place in places]
    try:
        tokenized = run.data.prepare("train", run.tokenizer)
    except UserError:
        generator = torch.Generator().manual_seed(0)
        shape = (ROWS, LONGEST // 4)
        return torch.randint(len(run.tokenizer), shape, generator=generator).tolist()
    chosen = {i * len(tokenized) // ROWS for i in range(ROWS)}
    return [[int(t) for t in tokenized.row(i)["input_ids"][:LONGEST]] for i in sorted(chosen)]


def _make_mismatch_error(result: Agreement, begins: str, run: Run) -> UserError:
    assert run.dir is not None
    return UserError(
        f"the merged model is not the trained one: a logit differs by {result.difference:.3g}, "
        f"{result.allowed:.3g} is allowed, and the likeliest token is the same at {result.same:.1%} "
        f"of positions. They begin to differ at {begins}. Nothing was written.",
        where="method",
        fix=f"use the adapter without merging: ftcli chat {run.dir.path}, or PEFT on its folder; "
        "method=lora merges exactly",
    )


def _make_rounding_error(result: Agreement, dtype: torch.dtype) -> UserError:
    kind = str(dtype).removeprefix("torch.")
    return UserError(
        f"in {kind} the merged weights lose what was trained: a logit differs by "
        f"{result.difference:.3g}, {result.allowed:.3g} is what {kind} may round, and the likeliest "
        f"token is the same at {result.same:.1%} of positions. Nothing was written.",
        where="model.dtype",
        fix="model.dtype: float32 in the run's config.yaml keeps it, or use the adapter without merging",
    )


def _save_merged(run: Run, model: Any, target: Path) -> int:
    """Write the merged model and its card; returns the bytes.

    Raises:
        UserError: the written files do not hold the model.
    """
    from ftcli.run.card import card_text

    def add_card(folder: Path) -> None:
        assert run.dir is not None
        (folder / "README.md").write_text(card_text(run.dir, "model"), encoding="utf-8")
        written = {"path": str(folder), "revision": None, "quantization": "none",
                   "weights": "pretrained", "gguf_file": None}  # fmt: skip
        source = run.model_source
        replace(source, **{k: v for k, v in written.items() if hasattr(source, k)}).check_files()

    return save_model(model, run.tokenizer, target, add_card)


def save_model(
    model: Any, tokenizer: Any, target: Path, complete: Callable[[Path], None] | None = None
) -> int:
    """Write model, generation config and tokenizer atomically; returns the bytes.

    Args:
        complete: adds files to the folder before it is renamed to `target`.
    """
    from ftcli.core.atomic import write_folder
    from ftcli.models.hub import quiet_progress_bars

    target.parent.mkdir(parents=True, exist_ok=True)
    with write_folder(target) as unfinished, quiet_progress_bars():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        save_generation(model, tokenizer, unfinished)
        if complete is not None:
            complete(unfinished)
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
