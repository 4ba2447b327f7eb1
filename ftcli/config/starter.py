"""A first job from three answers, with settings that fit the machine it is written on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.config import composition, paths, requirements, signature, validation
from ftcli.config.display import scalar
from ftcli.config.job import PROMISES
from ftcli.config.keys import TARGET
from ftcli.config.nearest import nearest
from ftcli.config.option import content
from ftcli.errors import UserError

#: What is taken where nobody answers.
USUAL = {"model": "llama_mini", "data": "e2e", "method": "lora"}


@dataclass(frozen=True)
class Machine:
    """What decides the settings: `memory_gb` is that of the GPU, None without one."""

    name: str
    memory_gb: float | None = None
    bf16: bool = False


@dataclass(frozen=True)
class Choice:
    """An answer: an option of the group, and the path it is given if the answer was no option."""

    option: str
    path: str | None = None


def this_machine() -> Machine:
    """Ask torch what there is."""
    import torch

    if not torch.cuda.is_available():
        return Machine("the CPU")
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    return Machine(torch.cuda.get_device_name(0), memory, torch.cuda.is_bf16_supported())


def write(
    model: str, data: str, method: str, output: str, machine: Machine, force: bool = False
) -> Path:
    """Write the job, checked as `ftcli train` would check it.

    Args:
        model: an option of the group, a hub id or a folder.
        data: an option of the group, a file, folder or hub id.
        method: an option of the group.

    Raises:
        UserError: no such option, or the file exists and `force` is off.
    """
    target = Path(output)
    if target.exists() and not force:
        raise UserError(f"{target} exists already.", fix="--output ANOTHER.yaml, or add --force")
    text = starter(choose("model", model), choose("data", data), choose("method", method), machine)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.stem}.draft.yaml")
    try:
        draft.write_text(text, encoding="utf-8")
        validation.validate(composition.compose(draft))
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def choose(group: str, answer: str) -> Choice:
    """What an answer means; a path goes to the option whose path is left open.

    Raises:
        UserError: neither an option nor anything that could be a path.
    """
    known = paths.options(group)
    if answer in known:
        return Choice(answer)
    if "/" in answer or Path(answer).suffix or Path(answer).exists():
        open_ = {
            o: c
            for o, file in known.items()
            if (c := content(file)).get("path") == "???" and (group != "data" or _of_text(c))
        }
        plain = Path(answer).suffix in (".txt", ".md")
        fitting = [o for o, c in open_.items() if (c.get("format") == "text") == plain]
        if fitting:
            return Choice(fitting[0], answer)
    near = nearest(answer, known)
    hint = f" Closest: {', '.join(near)}." if near else ""
    raise UserError(
        f"{group}={answer}: no such {group}.{hint}", fix=f"ftcli ls {paths.plural(group)}"
    )


def starter(model: Choice, data: Choice, method: Choice, machine: Machine) -> str:
    """The YAML of a job."""
    chosen = content(paths.options("method")[method.option])
    promises = signature.read(chosen[TARGET]).attributes | (chosen.get(PROMISES) or {})
    settings = _settings(promises, machine)
    _meet(settings, chosen)
    judged = data.option if data.option in paths.options("eval") else "loss"
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
    lines += [f"  - {group}: {option}  # {_others(group)}" for group, option in picks.items()]
    lines += ["  - _self_  # what follows goes over all that", "", "seed: 0"]
    lines += _body("model", {"path": (model.path, "")}, settings["model"])
    lines += _body("data", _own_data(data), settings["data"])
    for group in ("optimizer", "scheduler", "trainer"):
        lines += _body(group, {}, settings[group])
    return "\n".join(lines) + "\n"


def _others(group: str) -> str:
    count = len(paths.options(group))
    return f"{count} choices: ftcli ls {paths.plural(group)}" if group != "run" else "runs/<file>/"


def _body(group: str, *parts: dict[str, tuple[Any, str]]) -> list[str]:
    """A group's keys with their comments; a key without a value is left out."""
    keys = {k: v for part in parts for k, v in part.items() if v[0] is not None}
    lines = [f"  {k}: {scalar(v)}" + (f"  # {why}" if why else "") for k, (v, why) in keys.items()]
    return [f"{group}:", *lines] if lines else []


def _of_text(node: dict[str, Any]) -> bool:
    """Whether an option of `data` reads text, whose format may be told from its columns."""
    return "format" in signature.read(node[TARGET]).parameters


def _own_data(data: Choice) -> dict[str, tuple[Any, str]]:
    if data.path is None:
        return {}
    text = content(paths.options("data")[data.option]).get("format") == "text"
    return {
        "path": (data.path, ""),
        "format": (
            None if text else "auto",
            "told from its columns; see: ftcli schema data.format",
        ),
        "validation": (0.05, "share held out to judge the model"),
    }


def _meet(settings: dict[str, dict[str, Any]], method: dict[str, Any]) -> None:
    """Change what the method's own `requires` does not allow."""
    for key, allowed in requirements.allowed(method).items():
        group, _, name = key.partition(".")
        given = settings.get(group, {}).get(name)
        if given is None or given[0] not in allowed:
            settings.setdefault(group, {})[name] = (allowed[0], "the method asks for it")


def _settings(promises: dict[str, Any], machine: Machine) -> dict[str, dict[str, Any]]:
    """Values by group, with the reason of each, from what the method's class promises."""
    gpu, whole = machine.memory_gb, promises.get("artefact") == "model"
    small = gpu is not None and gpu < 40
    stored = "nf4" if small and promises.get("quantisable") is not False else "none"
    packed = promises.get("packable") is not False
    recomputed = small and promises.get("gradient_checkpointing") is not False
    return {
        "model": {"quantization": (stored, "none, nf4, fp4 or int8: how the frozen weights lie")},
        "data": {
            "max_length": (512 if gpu is None else 1024, "tokens of the longest document"),
            "packing": (None if packed else "none", "the method adds to each row"),
        },
        "optimizer": {
            "lr": (
                2e-5 if whole else 2e-4,
                "an adapter wants about ten times that of full training",
            )
        },
        "scheduler": {"warmup_ratio": (0.03, "share of the steps")},
        "trainer": {
            "epochs": (1.0, "passes over the data; or max_steps"),
            "batch_size": (4 if small else 16, "rows a forward pass"),
            "gradient_accumulation_steps": (4 if small else 1, "forward passes a step"),
            "precision": ("bf16" if machine.bf16 else "fp32", "fp32 or bf16"),
            "gradient_checkpointing": (True if recomputed else None, "less memory, more time"),
        },
    }
