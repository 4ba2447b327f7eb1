"""card.md: the model card of a trained artefact, in the form of the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli import __version__
from ftcli.config.renamed import update_old_config
from ftcli.core.atomic import write_text
from ftcli.core.base_model import FILE as BASE
from ftcli.core.errors import UserError
from ftcli.core.escaping import escape_markdown
from ftcli.run.report import (
    figures_table,
    read_config,
    read_json,
    repeat_commands,
    scores_table,
    table,
    title,
)

if TYPE_CHECKING:
    from ftcli.core.run_dir import RunDir

UNKNOWN = "not recorded with the data; find it out before sharing the model"


def write_card(run_dir: RunDir) -> Path:
    """Write card.md, and README.md beside the trained weights; returns the path of card.md.

    README.md replaces the empty form that PEFT writes there and that the Hub would show.
    """
    folder = Path(run_dir.path)
    kind = _read_artefact_kind(update_old_config(read_config(folder)))
    path = folder / "card.md"
    write_text(path, card_text(run_dir, kind))
    for artefact in ("adapter", "model"):
        if (folder / artefact).is_dir():
            write_text(folder / artefact / "README.md", card_text(run_dir, artefact))
    return path


def card_text(run_dir: RunDir, artefact: str) -> str:
    """Return the model card of a run's adapter or whole model.

    Args:
        artefact: `adapter` (loaded by PEFT) or `model` (loaded by transformers).
    """
    folder = Path(run_dir.path)
    config, data = update_old_config(read_config(folder)), read_json(folder / "data.json")
    result = run_dir.result()
    parts = [
        _build_front_matter(config, result, artefact),
        f"# {title(folder)}",
        _build_usage(config, artefact),
        _build_sources_table(config, data, read_json(folder / BASE)),
        f"## Licence of the data\n\n{_format_licence(data)}",
        f"## Scores\n\n{scores_table(result)}" if scores_table(result) else "",
        f"## Training\n\n{figures_table(result)}" if figures_table(result) else "",
        f"## Command\n\nWith ftcli {__version__}:\n\n{repeat_commands(folder)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _build_front_matter(config: dict[str, Any], result: dict[str, Any], artefact: str) -> str:
    """The YAML front matter that the Hub reads; unknown fields are left out."""
    from huggingface_hub import ModelCardData

    base, adapter = _find_base_id(config), artefact == "adapter"
    metrics = [name.removeprefix("eval.") for name in result.get("metrics") or {}]
    data: Any = ModelCardData(
        base_model=base,
        library_name="peft" if adapter else "transformers",
        license=_read_base_licence(config),
        tags=["ftcli"],
        datasets=_list_hub_data(config) or None,
        metrics=[name for name in metrics if name not in ("loss", "perplexity")] or None,
    )
    if base:
        data.base_model_relation = (
            "adapter" if adapter else "finetune"
        )  # a key that only the Hub knows
    return f"---\n{data.to_yaml().rstrip()}\n---"


def _find_base_id(config: dict[str, Any]) -> str | None:
    """The base's id on the Hub; None for a folder of this machine."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    from ftcli.models.hub import published_name

    path = config.get("model", {}).get("path")
    try:
        name = published_name(path) if isinstance(path, str) else None
        if name is not None:
            validate_repo_id(name)
    except (UserError, HFValidationError):  # a folder that no longer exists, or an invalid id
        return None
    return name


def _read_base_licence(config: dict[str, Any]) -> str | None:
    """The licence in the base's own model card; None where that is not on this machine."""
    from huggingface_hub import ModelCard

    from ftcli.models import hub

    model = config.get("model", {})
    try:
        card = hub.find_file(
            hub.resolve(str(model.get("path"))), "README.md", model.get("revision")
        )
        licence = ModelCard.load(card).data.license if card else None
    except (UserError, ValueError, OSError):  # no model, or an unreadable card
        return None
    return licence if isinstance(licence, str) else None


def _list_hub_data(config: dict[str, Any]) -> list[str]:
    """Return the ids of the data sets of the hub that the run was trained on."""
    from ftcli.data.sources import files, hub

    data = config.get("data", {})
    paths = [data.get("path"), *(source.get("path") for source in data.get("sources") or ())]
    return [
        path
        for path in paths
        if isinstance(path, str) and hub.is_id(path) and not files.exists_locally(path)
    ]


def _build_usage(config: dict[str, Any], artefact: str) -> str:
    """Code by which transformers and PEFT load the artefact; empty unless it is a causal language model."""
    model = config.get("model", {})
    if not str(model.get("_target_", "")).endswith("CausalLMSource"):
        return ""
    from ftcli.models.hub import OWNER

    name = _find_base_id(config) or Path(str(model.get("path"))).name
    shipped = name.startswith(OWNER)
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if artefact == "adapter":
        lines.append("from peft import PeftModel")
        lines += ["from ftcli.models.hub import resolve  # the base ships with ftcli"] * shipped
        quoted = json.dumps(name)  # an untrusted configuration must not add lines of code
        place = f"resolve({quoted})" if shipped else quoted
        chosen = model.get("revision")
        revision = f", revision={json.dumps(str(chosen))}" if chosen else ""
        lines += [
            f"base = AutoModelForCausalLM.from_pretrained({place}{revision})",
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
    else:
        lines.append('model = AutoModelForCausalLM.from_pretrained("FOLDER")')
    lines.append('tokenizer = AutoTokenizer.from_pretrained("FOLDER")')
    code = "\n".join(lines)
    return f"## Use\n\nFOLDER is where this file lies.\n\n```python\n{code}\n```"


def _read_artefact_kind(config: dict[str, Any]) -> str:
    """`adapter` or `model`: what the method saves."""
    from ftcli.config.signature import NoSuchClass, read_signature

    try:
        artefact = read_signature(config["method"]["_target_"]).attributes.get("artefact")
    except (KeyError, NoSuchClass):
        artefact = None
    return "adapter" if artefact == "adapter" else "model"


def _build_sources_table(config: dict[str, Any], data: dict[str, Any], base: dict[str, Any]) -> str:
    rows = [
        ("base model", config.get("model", {}).get("path")),
        ("commit of the base", base.get("commit")),
        *((f"SHA-256 of {name}", digest) for name, digest in base.get("files", {}).items()),
        ("data", config.get("data", {}).get("path") or data.get("path")),
        ("revision of the data", data.get("revision")),
        ("content hash of the data", data.get("fingerprint")),
    ]
    return table(("source", "what"), [row for row in rows if row[1]])


def _format_licence(data: dict[str, Any]) -> str:
    """The licence that came with the data, without the headings of its file."""
    lines = str(data.get("licence") or UNKNOWN).splitlines()
    return escape_markdown("\n".join(line for line in lines if not line.startswith("#")).strip())
