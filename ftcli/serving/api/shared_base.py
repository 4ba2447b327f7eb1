"""Several runs with LoRA on one base: the base is loaded once and holds their adapters side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.config import load
from ftcli.core.base_model import FILE, record_or_check_base
from ftcli.core.errors import UserError
from ftcli.core.run import PROOF
from ftcli.core.run_dir import RunDir
from ftcli.methods.base import check_names, check_shapes
from ftcli.methods.peft import Peft
from ftcli.run.build import build_run
from ftcli.trainer.checkpoint import Checkpoints
from ftcli.trainer.checkpoint_io import WEIGHTS, read_weights
from ftcli.trainer.manifest import step_of

if TYPE_CHECKING:
    from ftcli.core.run import Run

#: Options of LoRA by which the base itself changes, or that PEFT keeps once for all adapters.
UNSHARED = ("target_parameters", "layer_replication", "trainable_token_indices", "modules_to_save")


def can_share_base(run: Run, folder: Path) -> bool:
    """Whether the run of a folder can be a further adapter in the model of an open run.

    Both are LoRA that leaves the base as it was, on the same files, loaded and computed alike.
    """
    if run.dir is None or getattr(run.model_source, "weights", None) == "random":
        return False
    other = build_run(load(folder / "config.yaml").config, RunDir(folder))
    settings = [(r.config["model"], r.config["trainer"].get("precision")) for r in (run, other)]
    if settings[0] != settings[1] or not (_is_plain_lora(run) and _is_plain_lora(other)):
        return False
    texts = [[_read(path / name) for name in (FILE, PROOF)] for path in (run.dir.path, folder)]
    return texts[0] == texts[1] and texts[0][0] is not None


def add_adapter(host: Run, folder: Path, name: str, checkpoint: str = "last") -> Run:
    """Return the run of a folder with its checkpoint as adapter `name` in the model of `host`.

    Raises:
        UserError: there is no such checkpoint, or its tensors are not those of its adapter.
    """
    import peft

    run = build_run(load(folder / "config.yaml").config, RunDir(folder))
    record_or_check_base(run)
    source = Checkpoints(RunDir(folder).checkpoints).find(checkpoint, verify_files=WEIGHTS)
    described = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    config = peft.get_peft_config(described | {"init_lora_weights": True})
    tensors = read_weights(source)
    model = host.model
    try:
        model.add_adapter(name, config, autocast_adapter_dtype=run.method.autocast_adapter_dtype)
    except ValueError as error:
        raise UserError(f"PEFT cannot add this adapter: {error}", str(folder)) from error
    current = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    check_names(sorted(current.keys() - tensors.keys()), sorted(tensors.keys() - current.keys()))
    check_shapes(current, tensors)
    peft.set_peft_model_state_dict(model, tensors, adapter_name=name)
    run.model, run.evaluated_step = model.eval(), step_of(source)
    return run


def _is_plain_lora(run: Run) -> bool:
    if type(run.method) is not Peft or run.method.config_class != "peft.LoraConfig":
        return False
    return run.method.keeps_base and not any(run.method.options.get(key) for key in UNSHARED)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
