"""The model card that goes to the hub: the run's own, with scores that the hub reads, without places of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.config.renamed import update_old_config
from ftcli.core.redaction import redact
from ftcli.core.run_dir import RunDir
from ftcli.run.card import card_text
from ftcli.run.report import read_config, read_json, table

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

#: Class of the run's model or, for a classifier, of its data -> task of the hub.
TASKS = {
    "CausalLMSource": "text-generation", "LdmSource": "text-to-image",
    "Images": "image-classification", "Audio": "audio-classification",
}  # fmt: skip
ALONE = "\n\nFrom this folder alone:\n\n```\nftcli train config.yaml\n```"  # of the run's own card
NOTE = re.compile(r"^# (?:in .*|[A-Z_]+=.*)\n", re.MULTILINE)  # below the command in command.txt


def build_card(folder: Path, artefact: str, repo: str, licence: str | None = None) -> ModelCard:
    """Return the card of a run for the hub: base model, data, licence, metrics, command.

    Secrets are redacted. The folder in which the command was typed becomes `.`, the home folder `~`.

    Args:
        artefact: `adapter` or `model`.
        repo: `owner/name` on the hub.
        licence: of the model; None: that of the base, where it is known.
    """
    from huggingface_hub import ModelCard

    text = card_text(RunDir(folder), artefact)
    benchmarks = _read_benchmarks(folder)
    if benchmarks:
        text += f"\n## Scores measured later\n\n{_format_benchmarks(benchmarks)}\n"
    text = text.replace("FOLDER is where this file lies.\n\n", "").replace('"FOLDER"', f'"{repo}"')
    card = ModelCard(redact(_hide_places(text.replace(ALONE, ""), folder)))
    data: Any = card.data
    data.license = licence or data.license
    task = find_task(update_old_config(read_config(folder)))
    if task:
        data.pipeline_tag = task
    data.model_name = repo.rpartition("/")[2]
    data.eval_results = _list_results(folder, task or "other", benchmarks) or None
    return card


def find_task(config: dict[str, Any]) -> str | None:
    """Return the hub's name of what the model does; None for other models."""
    targets = (str(config.get(part, {}).get("_target_", "")) for part in ("model", "data"))
    return next((TASKS[n] for t in targets if (n := t.rpartition(".")[2]) in TASKS), None)


def _hide_places(text: str, folder: Path) -> str:
    command = folder / "command.txt"
    typed = command.read_text(encoding="utf-8") if command.exists() else ""
    where = re.search(r"^# in (.+)$", typed, re.MULTILINE)
    text = NOTE.sub("", text)
    for place, short in ((where[1] if where else "", "."), (str(Path.home()), "~")):
        if len(place) > 1:
            text = re.sub(rf"{re.escape(place)}(?=[/\s\"'`]|$)", short, text)
    return text


def _read_benchmarks(folder: Path) -> dict[str, dict[str, Any]]:
    """Task -> content of eval/<task>.json."""
    return {file.stem: read_json(file) for file in sorted((folder / "eval").glob("*.json"))}


def _format_benchmarks(benchmarks: dict[str, dict[str, Any]]) -> str:
    rows = [
        (task, f"step {kept.get('step')}", name, f"{value:.4g}")
        for task, kept in benchmarks.items()
        for name, value in kept.get("scores", {}).items()
    ]
    return table(("task", "checkpoint", "score", "value"), rows)


def _list_results(folder: Path, task: str, benchmarks: dict[str, dict[str, Any]]) -> list[Any]:
    """The scores as the hub's index takes them: of the run's own data, and of benchmarks."""
    from huggingface_hub import EvalResult

    data = read_config(folder).get("data", {})
    path = str(data.get("path", "unknown"))
    name = path.rpartition(":")[2] if path.startswith("asset:") else Path(path).name
    kind = path if read_json(folder / "data.json").get("commit") else name
    metrics = RunDir(folder).result().get("metrics") or {}
    own = [(kind, name, key.removeprefix("eval."), value) for key, value in metrics.items()]
    later = [
        (bench, bench, key, value)
        for bench, kept in benchmarks.items()
        for key, value in kept.get("scores", {}).items()
    ]
    return [
        EvalResult(
            task_type=task, dataset_type=kind, dataset_name=title, metric_type=key,
            metric_value=value, metric_name=key,
        )
        for kind, title, key, value in [*own, *later]
    ]  # fmt: skip
