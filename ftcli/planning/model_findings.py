"""Findings on a job's model: where its weights are, which layers are trained, how rows are packed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.core.logs import silence_logger
from ftcli.planning.findings import Finding, fail, ok, unknown, warn

if TYPE_CHECKING:
    from torch import nn

    from ftcli.core.batch_layout import BatchLayout
    from ftcli.planning.meta_run import MetaRun

WRAPPERS = 3  # most dotted parts that a wrapper puts before the base model's parameter names
MOST = 500_000_000  # parameters of the largest model that a check loads: a few seconds, about 2 GB


def check_weights(source: Any) -> Finding:
    """Whether a model's weights are on this machine, and if not, whether the hub would give them.

    Args:
        source: the `model` of a job.

    Raises:
        UserError: there is no such folder or asset, or its files do not fit the model.
    """
    from ftcli.models import hub

    if getattr(source, "weights", None) == "random":
        return ok("model", f"{source.path}: new weights, none are read")
    if getattr(source, "gguf", None):
        return _gguf_finding(source)
    path = hub.resolve(source.path)
    if source.weight_files():
        note = source.check_files()
        place = "weights are here" if hub.is_local(path) else "weights are in the local cache"
        return ok("model", f"{source.path}: {place}{f'; {note}' if note else ''}")
    if hub.is_local(path):
        return fail("model", UserError(
            f"{source.path} holds no weights as *.safetensors.", "model.path",
            "model.path=FOLDER with weights",
        ))  # fmt: skip
    return _hub_finding(source, path)


def _hub_finding(source: Any, path: str) -> Finding:
    from ftcli.models import hub

    try:
        hub.ask_hub(path, source.revision)
        source.check_files()  # what can be checked by the configuration alone
    except UserError as error:
        return (fail if _is_refusal(error) else unknown)("model", error)
    return warn("model", f"{path} is not on this machine; training will download it first")


def _gguf_finding(source: Any) -> Finding:
    """Whether a GGUF file is on this machine and can be loaded, and what is dequantised from what."""
    if source.gguf.find() is None:
        return _hub_finding(source, source.path)
    source.hf_config()  # refuses an architecture that transformers does not read
    note = source.check_files() if source.weight_files() else ""
    return ok("model", f"{source.gguf.describe()}{f'; {note}' if note else ''}")


def _is_refusal(error: UserError) -> bool:
    """Whether the hub answered no, rather than not at all."""
    from huggingface_hub import errors

    answers = (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    return isinstance(error.__cause__, answers)


def summarize_trained(model: nn.Module) -> str:
    """Return which layers hold trained parameters, as `q_proj 8, v_proj 8, 2 other tensors`.

    Linear layers and experts are counted by their last name; what lies in neither comes last.
    """
    from ftcli.models.anatomy import Anatomy
    from ftcli.models.experts import find_expert_weights

    linears = {linear.name for linear in Anatomy(model).linears}
    linears |= {stack.owner for stack in find_expert_weights(model)}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    layers = [next((n for n in _prefixes(name) if n in linears), None) for name in names]
    counts = Counter(name.rpartition(".")[2] for name in {name for name in layers if name})
    parts = [f"{name} {count}" for name, count in sorted(counts.items())]
    others = layers.count(None)
    return ", ".join(parts + ([f"{others} other tensors"] if others else []))


def _prefixes(name: str) -> Iterator[str]:
    """Runs of a parameter's dotted parts that may be the name of its layer, longest first."""
    parts = name.split(".")
    for start in range(WRAPPERS):
        for end in range(len(parts) - 1, start, -1):
            yield ".".join(parts[start:end])


def check_statistics(model: nn.Module, method: Any) -> Iterator[Finding]:
    """Warn where training moves running statistics of BatchNorm that the method's checkpoints do not hold.

    Statistics are buffers, not parameters. Forward passes in training mode move them even where every parameter is frozen.
    """
    from torch.nn.modules.batchnorm import _NormBase

    moved = [
        n for n, m in model.named_modules() if isinstance(m, _NormBase) and m.track_running_stats
    ]
    saved = method.get_trained_tensors(model).keys() if moved else ()
    lost = [name for name in moved if f"{name}.running_mean" not in saved]
    if lost:
        yield warn(
            "targets",
            f"training moves the running statistics of {len(lost)} BatchNorm layers, and checkpoints of this "
            "method do not hold them: resumed or loaded, the model is another one",
            "method=full_with_statistics",
        )


def check_packing(meta_run: MetaRun) -> Iterator[Finding]:
    """Prove how the job's rows can be packed, as a run would, and set the packing of its data.

    The measurement needs the weights: without them, or for a model above `MOST`, it is left to the run.

    Raises:
        UserError: the packing that was asked for is not right for the model, or no way is.
    """
    from ftcli.models.anatomy import count_parameters

    source, data = meta_run.source, meta_run.data
    if not hasattr(source, "select_batch_layout") or not hasattr(data, "use_batch_layout"):
        return
    objective = meta_run.objective.layout_check_objective()
    if objective is None:
        return
    wanted = meta_run.config["data"].get("packing") or "auto"
    if check_weights(source).status != "ok":
        yield _report_unmeasured(wanted, "its weights are not on this machine")
    elif (size := count_parameters(source.build_meta_model())) > MOST:
        yield _report_unmeasured(
            wanted, f"its {size / 1e9:.1f}e9 parameters are more than a check loads"
        )
    else:
        if not meta_run.method.packable:
            wanted = "none"
        with silence_logger("data"):
            outcome = source.select_batch_layout(
                source.load("cpu"), wanted, data.max_length, objective
            )
        data.use_batch_layout(outcome.packing, outcome.document_isolation)
        yield _report_batch_layout(outcome)


def _report_unmeasured(wanted: str, why: str) -> Finding:
    what = f"{wanted}: whether documents stay apart is measured when the run starts; {why}."
    return unknown("packing", UserError(what))


def _report_batch_layout(outcome: BatchLayout) -> Finding:
    attention = "" if outcome.attention == "documents" else ", with the attention of transformers"
    ways = {
        "one_row_per_forward": ", one row per forward pass",
        "reset_state": ", recurrent layers restart at each document",
    }
    text = f"{outcome.packing}{ways.get(outcome.document_isolation, '')}{attention}"
    if not outcome.reason:
        return ok("packing", f"{text}: losses are those of each row alone")
    return warn("packing", f"{text}: {outcome.reason}")
