"""Write a first job from three answers, with settings that fit this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.config import composition, paths, signature, validation
from ftcli.config.display import format_scalar
from ftcli.config.job import CAPABILITIES, TARGET
from ftcli.config.paths import find_nearest
from ftcli.config.yaml_locations import read_option
from ftcli.core.errors import UserError
from ftcli.jobs.machine_settings import Machine, apply_requirements, choose_settings

if TYPE_CHECKING:
    from ftcli.data.inspection import SourceSummary

#: The answers where none is given.
DEFAULTS = {"model": "llama_mini", "data": "e2e", "method": "lora"}


class RawYaml(str):
    """Text that is written to the YAML unquoted."""


NULL = RawYaml("null")


@dataclass(frozen=True)
class Choice:
    """An option of a group, and the path to set in it where the answer was a path."""

    option: str
    path: str | None = None


def write_job(
    model: str, data: str, method: str, output: str, machine: Machine, force: bool = False
) -> Path:
    """Write the job, after validating it as `ftcli train` does; returns the file.

    Args:
        model: an option of the group, a hub id or a folder.
        data: an option of the group, a file, folder or hub id.
        method: an option of the group.

    Raises:
        UserError: no such option, the file exists and `force` is off, or no format fits the data.
    """
    target = Path(output)
    if target.exists() and not force:
        raise UserError(f"{target} exists already.", fix="--output ANOTHER.yaml, or add --force")
    answers = (
        choose_option("model", model),
        choose_option("data", data),
        choose_option("method", method),
    )
    text = render_job(*answers, machine, _survey_data(answers[1]))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.stem}.draft.yaml")
    try:
        draft.write_text(text, encoding="utf-8")
        validation.validate_and_convert(composition.compose(draft))
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def choose_option(group: str, answer: str) -> Choice:
    """Return the option that an answer names; a path selects the option whose `path` is `???`.

    Raises:
        UserError: the answer is neither an option nor a path.
    """
    known = paths.list_options(group)
    if answer in known:
        return Choice(answer)
    if "/" in answer or Path(answer).suffix or Path(answer).exists():
        open_ = {
            o: c
            for o, file in known.items()
            if (c := read_option(file)).get("path") == "???" and (group != "data" or _reads_text(c))
        }
        plain = Path(answer).suffix in (".txt", ".md")
        fitting = [o for o, c in open_.items() if (c.get("format") == "text") == plain]
        if fitting:
            return Choice(fitting[0], answer)
    near = find_nearest(answer, known)
    hint = f" Closest: {', '.join(near)}." if near else ""
    raise UserError(
        f"{group}={answer}: no such {group}.{hint}", fix=f"ftcli ls {paths.pluralize_group(group)}"
    )


def render_job(
    model: Choice,
    data: Choice,
    method: Choice,
    machine: Machine,
    summary: SourceSummary | None = None,
) -> str:
    """The YAML of a job.

    Args:
        seen: what the data hold, where that is known.
    """
    chosen = read_option(paths.list_options("method")[method.option])
    capabilities = signature.read_signature(chosen[TARGET]).attributes | (
        chosen.get(CAPABILITIES) or {}
    )
    settings = choose_settings(capabilities, machine, None if summary is None else summary.rows)
    apply_requirements(settings, chosen)
    data_settings = _choose_data_settings(data, summary)
    judged = data.option if data.option in paths.list_options("eval") else "loss"
    judged = (
        "none"
        if "validation" in data_settings and data_settings["validation"][0] is NULL
        else judged
    )
    picks = {
        "model": model.option, "data": data.option, "method": method.option,
        "objective": "causal_lm", "optimizer": "adamw", "scheduler": "linear",
        "trainer": "default", "eval": judged, "logger": "default", "run": "default",
    }  # fmt: skip
    lines = [
        f"# {method.option} on {data.path or data.option}, written for {machine.name}",
        "# ftcli check FILE looks it over, ftcli train FILE runs it, ftcli schema KEY explains a key",
        "defaults:",
    ]
    lines += [
        f"  - {group}: {option}  # {_count_options(group)}" for group, option in picks.items()
    ]
    lines += ["  - _self_  # what follows goes over all that", "", "seed: 0"]
    lines += _render_group("model", {"path": (model.path, "")}, settings["model"])
    lines += _render_group("data", data_settings, settings["data"])
    for group in ("optimizer", "scheduler", "trainer"):
        lines += _render_group(group, {}, settings[group])
    return "\n".join(lines) + "\n"


def _count_options(group: str) -> str:
    count = len(paths.list_options(group))
    return (
        f"{count} choices: ftcli ls {paths.pluralize_group(group)}"
        if group != "run"
        else "runs/<file>/"
    )


def _render_group(group: str, *parts: dict[str, tuple[Any, str]]) -> list[str]:
    """Return the YAML lines of a group with comments; keys without a value are left out."""
    keys = {k: v for part in parts for k, v in part.items() if v[0] is not None}
    written = {
        k: (v if isinstance(v, RawYaml) else format_scalar(v), why) for k, (v, why) in keys.items()
    }
    lines = [f"  {k}: {v}" + (f"  # {why}" if why else "") for k, (v, why) in written.items()]
    return [f"{group}:", *lines] if lines else []


def _reads_text(node: dict[str, Any]) -> bool:
    """Whether an option of `data` reads text, whose format may be told from its columns."""
    return "format" in signature.read_signature(node[TARGET]).parameters


def _survey_data(data: Choice) -> SourceSummary | None:
    """Return a summary of the local rows; None for shipped data, data on the hub, and plain text."""
    if data.path is None or _is_plain_text(data):
        return None
    from ftcli.data.inspection import summarize_source
    from ftcli.data.sources import files

    if not files.exists_locally(data.path):
        return None
    return summarize_source(files.find_files(data.path), "data.path")


def _is_plain_text(data: Choice) -> bool:
    return bool(read_option(paths.list_options("data")[data.option]).get("format") == "text")


def _choose_data_settings(
    data: Choice, summary: SourceSummary | None
) -> dict[str, tuple[Any, str]]:
    if data.path is None:
        return {}
    settings: dict[str, tuple[Any, str]] = {"path": (data.path, "")}
    if not _is_plain_text(data):
        settings["format"] = ("auto", "told from its columns; see: ftcli schema data.format")
    if summary is not None and (summary.columns or summary.others):
        also = f"; {', '.join(summary.others)} would fit too" if summary.others else ""
        settings["format"] = (summary.format, f"by its columns{also}")
        if summary.columns:
            pairs = ", ".join(
                f"{name}: {format_scalar(col)}" for name, col in summary.columns.items()
            )
            settings["columns"] = (RawYaml(f"{{{pairs}}}"), "field of the format: column")
    settings["validation"] = (0.05, "share held out to judge the model")
    if summary is not None and summary.prompts < 2:
        settings["validation"] = (NULL, "a share needs two different prompts")
    return settings
