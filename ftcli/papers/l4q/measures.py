"""Measurements of the l4q recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure


@measure(exact=True)
def l4q_clipped_weights(run: Path) -> float:
    """Number of weights of the untrained method that lie outside the range of the integers."""
    from ftcli.papers.l4q.quantiser import bounds

    count = 0
    for layer, rounded in _fresh_layers(run):
        low, high = bounds(layer.configs["default"].bits)
        count += int(((rounded.ratio < low) | (rounded.ratio > high)).sum())
    return float(count)


@measure(exact=True)
def l4q_rounding_steps(run: Path) -> float:
    """Largest distance of a rounded weight from the base's, before training, in steps of its scale."""
    worst = 0.0
    for layer, rounded in _fresh_layers(run):
        off = rounded.weight - layer.base.float()
        steps = off.view_as(rounded.ratio) / rounded.scale
        worst = max(worst, steps.abs().max().item())
    return worst


@measure(exact=True)
def l4q_export_difference(run: Path) -> float:
    """Largest difference in a token's loss, in nats, between the trained model and its exported integers.

    The integers are written to a file and read from it; the base's weights that they replace are set to
    0 beforehand, so that none is used.
    """
    import tempfile

    import torch
    from safetensors.torch import load_file

    from ftcli.papers.l4q.method import export_integers
    from ftcli.reproduce.probe import first_batch, loss_of
    from ftcli.run.build import open_run

    trained = open_run(run)
    with tempfile.TemporaryDirectory() as folder:
        export_integers(trained.model, Path(folder) / "model.safetensors")
        tensors = load_file(Path(folder) / "model.safetensors")
    batch = first_batch(trained)
    plain = trained.model_source.load()
    load_integers(plain, tensors, trained.model.peft_config["default"].bits)
    with torch.no_grad():
        losses = [loss_of(trained, model.eval(), batch) for model in (trained.model, plain)]
    return (losses[0] - losses[1]).abs().max().item()


def load_integers(model: Any, tensors: dict[str, Any], bits: int) -> None:
    """Set the weights of a plain model to what `export_integers` wrote, and nothing else to what it was."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from ftcli.models.packed_codes import unpack
    from ftcli.papers.l4q.quantiser import bounds

    rest = dict(tensors)
    for name in [key.removesuffix(".codes") for key in tensors if key.endswith(".codes")]:
        module: Any = model.get_submodule(name)
        module.weight.data.zero_()
        scale, offset = rest.pop(f"{name}.scale"), rest.pop(f"{name}.offset")
        transposed = isinstance(module, Conv1D)
        width = module.weight.shape[0 if transposed else 1]
        codes = unpack(rest.pop(f"{name}.codes"), bits, width).float() + bounds(bits)[0]
        grouped = codes.unflatten(1, (scale.shape[1], -1))
        weight = (grouped * scale[..., None] + offset[..., None]).flatten(1)
        module.weight.data.copy_(weight.T if transposed else weight)
    with torch.no_grad():
        unknown = model.load_state_dict(rest, strict=False).unexpected_keys
    assert not unknown, unknown


def _fresh_layers(run: Path) -> list[tuple[Any, Any]]:
    """Return the layers of the untrained model with their rounded weights."""
    from ftcli.papers.l4q.method import l4q_layers
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    return [(layer, layer.rounded("default")) for layer in l4q_layers(fresh.model).values()]
