"""Merge what a run trained into its base, prove that nothing changed, and save one plain model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ftcli.errors import UserError
from ftcli.models.heads import name_classes
from ftcli.serving.generation import save_generation

ROWS, LONGEST = 8, 256
Row = Sequence[int] | dict[str, torch.Tensor]  # tokens, or the inputs of one example
# Share of the largest logit that rounding may move, by the coarsest type that takes part.
ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.int8: 4e-2}


@dataclass(frozen=True)
class MergeReport:
    """What was written, and how far the merged model's logits are from the trained one's."""

    folder: str
    bytes: int
    rows: int
    max_difference: float
    tolerance: float
    same_choice: float  # share of positions with the same likeliest token

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for --json."""
        return asdict(self)

    def sentence(self) -> str:
        """One line for people."""
        return (
            f"merged into {self.folder} ({self.bytes / 1e6:.1f} MB): logits of {self.rows} rows "
            f"differ by at most {self.max_difference:.2e} (allowed {self.tolerance:.2e}), same "
            f"likeliest token at {self.same_choice:.2%} of positions"
        )


def merge_run(
    path: str | Path,
    to: str | Path,
    checkpoint: str = "last",
    tolerance: float | None = None,
) -> MergeReport:
    """Write the run's model as one plain `transformers` folder with tokenizer.

    A quantised base is dequantised first, so that the result is the model that was trained on and
    not the original one, and the adapter is not rounded to 4 bits with it.

    Args:
        tolerance: largest allowed difference of a logit; by default a share of the largest logit
            that depends on the dtype.

    Raises:
        UserError: `to` exists and is not empty, or merged and trained model differ too much.
    """
    from ftcli.run.run import Run

    target = Path(to)
    refuse_existing(target)
    run = Run.from_dir(path, checkpoint=checkpoint)
    if not run.method.mergeable:
        raise UserError(
            "this method adds no change of weights, so there is nothing to merge.",
            where="method",
            fix=f"serve the adapter as it is: ftcli chat {path}",
        )
    with run.evaluating():
        rows = _rows(run)
        share = rounding(run.model)
        trained = logits(run.model, rows)
        merged = plain_model(run)
        if hasattr(run.data, "names"):
            name_classes(merged, run.data.names)
        report = _check(trained, logits(merged, rows), share, tolerance, target)
        size = save_model(merged, run.tokenizer, target)
    return replace(report, bytes=size)


def refuse_existing(target: Path) -> None:
    """Refuse to write over a file, or into a folder that has content.

    Raises:
        UserError: `target` is one.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already.", where="--to", fix="name a new folder")


def plain_model(run: Any) -> Any:
    """The trained model without adapters and without quantised weights."""
    if not is_quantised(run.model):
        return run.method.merge(run.model)
    from accelerate.utils import set_seed

    set_seed(run.seed)  # as when the run began: some adapters hold random parts that never move
    base = run.model_source.load()
    model = run.method.prepare(base.dequantize(dtype=base.dtype))
    run.method.load_state(model, run.method.state(run.model))
    return run.method.merge(model.eval())


def is_quantised(model: Any) -> bool:
    """Whether weights are stored in a quantised form."""
    return getattr(model.config, "quantization_config", None) is not None


def rounding(model: Any) -> float:
    """Share of the largest logit by which the merged model may differ from this trained one."""
    quantised = getattr(model.config, "quantization_config", None)
    if getattr(quantised, "load_in_8bit", False):
        return ROUNDING[torch.int8]  # the layers round activations too
    compute = getattr(quantised, "bnb_4bit_compute_dtype", model.dtype)
    return max(ROUNDING.get(dtype, max(ROUNDING.values())) for dtype in (model.dtype, compute))


@torch.no_grad()
def logits(model: Any, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Float32 logits [T, V] of each row on its own, without padding or autocast; of classes [1, C]."""
    model.eval()
    found = []
    for row in rows:
        given = row if isinstance(row, dict) else {"input_ids": torch.tensor([list(row)])}
        out = model(**{name: tensor.to(model.device) for name, tensor in given.items()}).logits
        found.append(out.flatten(0, -2).float().cpu())
    return found


def _rows(run: Any) -> list[Row]:
    """Some rows the run was trained on; random tokens where its data are out of reach.

    Examples that are no text give the model's inputs themselves.
    """
    if hasattr(run.data, "preview"):
        examples = run.data.prepare("train", run.tokenizer)
        places = sorted({i * len(examples) // ROWS for i in range(ROWS)})
        return [examples.batch([place])["inputs"] for place in places]
    try:
        tokens = run.data.prepare("train", run.tokenizer)
    except UserError:
        generator = torch.Generator().manual_seed(0)
        shape = (ROWS, LONGEST // 4)
        return torch.randint(len(run.tokenizer), shape, generator=generator).tolist()
    chosen = {i * len(tokens) // ROWS for i in range(ROWS)}
    return [[int(t) for t in tokens.row(i)["input_ids"][:LONGEST]] for i in sorted(chosen)]


def _check(
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    share: float,
    tolerance: float | None,
    target: Path,
) -> MergeReport:
    pairs = list(zip(before, after, strict=True))
    difference = max((b - a).abs().max().item() for b, a in pairs)
    largest = max(b.abs().max().item() for b in before)
    allowed = share * largest if tolerance is None else tolerance
    agree = torch.cat([b.argmax(-1) == a.argmax(-1) for b, a in pairs]).float().mean().item()
    if not difference <= allowed:
        raise UserError(
            f"the merged model is not the trained one: a logit differs by {difference:.3g}, "
            f"{allowed:.3g} is allowed; the likeliest token is the same at {agree:.1%} of "
            "positions. Nothing was written.",
            fix="--tolerance states what you accept; the adapter itself serves without merging",
        )
    return MergeReport(str(target), 0, len(pairs), difference, allowed, agree)


def save_model(model: Any, tokenizer: Any, target: Path) -> int:
    """Write model, generation config and tokenizer at once; returns the bytes."""
    from ftcli.models.hub import progress_for_people
    from ftcli.run.atomic import folder

    target.parent.mkdir(parents=True, exist_ok=True)
    with folder(target) as unfinished, progress_for_people():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        save_generation(model, tokenizer, unfinished)
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
