"""Measurements of the greentrainer recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

ROWS, LENGTH = 4, 512
SCITLDR_ROWS, EPOCHS = 1992, 5
RHO = 0.5


@measure
def backward_flops_share(run: Path) -> float:
    """FLOPs of the backward pass over those with all parameters, counted by torch, mean over the steps."""
    from ftcli.papers.greentrainer.measurement import measure_flops

    flops = measure_flops(run)
    return flops.mean_backward / flops.full_backward


@measure
def training_flops(run: Path) -> float:
    """FLOPs of the whole training, selections and their probes included."""
    from ftcli.papers.greentrainer.measurement import measure_flops

    return measure_flops(run).training


@measure
def budget_excess(run: Path) -> float:
    """FLOPs of the costliest selection's steps as a share of a full step, minus rho."""
    from ftcli.config import load
    from ftcli.papers.greentrainer.measurement import measure_flops

    flops = measure_flops(run)
    rho = float(load(run / "config.yaml").config["trainable"]["rho"])
    return (flops.forward + max(flops.backward)) / flops.full_step - rho


@measure
def cost_model_error(run: Path) -> float:
    """Relative error of the cost model for a step that trains everything, against torch's count."""
    from ftcli.papers.greentrainer.measurement import measure_flops

    flops = measure_flops(run)
    return abs(flops.modelled_step / flops.full_step - 1)


@measure
def step_time_share(run: Path) -> float:
    """Time of a step of the first selection over that of a step that trains all parameters."""
    from ftcli.papers.greentrainer.measurement import Replay

    return Replay(run).measure_step_time()


@measure(exact=True)
def opt_2_7b_backward_over_forward(_run: Path) -> float:
    """T_bp / T_fp of OPT-2.7B on 4 rows of 512 tokens, on the meta device."""
    costs, every = _record_opt()
    return float(costs.compute_backward(every) / costs.forward)


@measure(exact=True)
def opt_2_7b_rho_bp(_run: Path) -> float:
    """Share of the backward pass that rho = 0.5 leaves."""
    costs, every = _record_opt()
    return float(costs.compute_budget(RHO, every) / costs.compute_backward(every))


@measure(exact=True)
def opt_2_7b_scitldr_peta(_run: Path) -> float:
    """Peta multiply-accumulates of full finetuning on SciTLDR: 1,992 rows, 5 epochs, batches of 4."""
    costs, every = _record_opt()
    return float(costs.compute_step(every) * SCITLDR_ROWS * EPOCHS / ROWS / 1e15)


@measure(exact=True)
def opt_2_7b_selected_share(_run: Path) -> float:
    """Cost of a step of the tensors that the solver selects at rho = 0.5, over that of a full step.

    Their importances are drawn from [0, 1), since without weights there is no loss drop to measure.
    """
    import numpy as np

    from ftcli.papers.greentrainer.solver import select_tensors

    costs, every = _record_opt()
    importance = np.random.default_rng(0).random(len(every))
    selected = select_tensors(importance, costs, costs.compute_budget(RHO, every))
    return float(costs.compute_step(selected) / costs.compute_step(every))


@cache
def _record_opt() -> tuple[Any, Any]:
    """Return the costs of OPT-2.7B, and the mask of all its tensors."""
    import numpy as np
    import torch

    from ftcli.papers.greentrainer.model import OptSource
    from ftcli.papers.greentrainer.operators import OperatorRecorder

    model = OptSource("facebook/opt-2.7b").build_meta_model()
    model.set_attn_implementation(
        "eager"
    )  # the mask of the others reads values, which meta tensors lack
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long, device="meta")
    recorder = OperatorRecorder(model)
    with torch.no_grad(), recorder:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    costs = recorder.collect()
    return costs, np.ones(len(costs.names), dtype=bool)
