"""Measurements of the qst recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from ftcli.core.run import Run

KEPT_BATCHES = 4
BATCHES, ROUNDS = 4, 3
LORA = {"_target_": "ftcli.methods.peft.Peft", "r": 16, "lora_alpha": 32}


@measure(exact=True)
def qst_base_graph(run: Path) -> float:
    """Number of blocks whose output requires a gradient in a step, plus base tensors with a gradient."""
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    anatomy, graph = Anatomy(fresh.model), []
    for _, block in anatomy.blocks:
        block.register_forward_hook(lambda _m, _a, out: graph.append(out.requires_grad))
    fresh.model.train()
    loss_of(fresh, fresh.model, first_batch(fresh)).sum().backward()
    assert len(graph) == len(anatomy.blocks)
    base = [p for m in anatomy.modules.values() for p in m.parameters(recurse=False)]
    return float(sum(graph) + sum(p.grad is not None for p in base))


@measure(exact=True)
def qst_count_excess(run: Path) -> float:
    """Trainable parameters minus L (d k + k w + 3 w + block) + w + w d + 2 d, for w = d / r.

    The block is a Llama's of width w, with as many heads and heads for keys as the base's, and no bias.
    """
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    c: Any = fresh.model_source.hf_config()
    r, k = fresh.config["method"]["reduction"], fresh.config["method"]["rank"]
    d, w, depth = c.hidden_size, c.hidden_size // r, c.num_hidden_layers
    head = (getattr(c, "head_dim", None) or d // c.num_attention_heads) // r
    attention = 2 * w * head * (c.num_attention_heads + c.num_key_value_heads)
    block = attention + 3 * w * (c.intermediate_size // r) + 2 * w
    formula = depth * (d * k + k * w + 3 * w + block) + w + w * d + 2 * d
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return float(result["trainable_parameters"] - formula)


@measure(exact=True)
def qst_kept_states_difference(run: Path) -> float:
    """Largest difference of a token's loss with cached states, as a share of the batch's largest loss.

    The losses are the trained model's on the first batches of the second epoch, after a first epoch
    that fills the store, so that documents are in other batches than those they were computed in.
    """
    import torch

    from ftcli.papers.qst.states import HiddenStates, Store
    from ftcli.papers.qst.tuner import side_layer
    from ftcli.reproduce.probe import loss_of
    from ftcli.run.build import open_run

    trained = open_run(run)
    loader, layer, furthest = trained.build_loader(), side_layer(trained.model), 0.0
    second = [loader.batch(rows) for rows in loader.list_batch_indices(1)[:KEPT_BATCHES]]
    wanted = {row for batch in second for row in batch["indices"]}
    first = [rows for rows in loader.list_batch_indices(0) if wanted & set(rows)]
    store = HiddenStates(Store(float("inf")))
    with torch.no_grad():
        plain = [loss_of(trained, trained.model, batch) for batch in second]
        layer.states = store
        for rows in first:
            loss_of(trained, trained.model, loader.batch(rows))
        store.store.hits = 0
        for batch, expected in zip(second, plain, strict=True):
            kept = loss_of(trained, trained.model, batch)
            furthest = max(furthest, ((kept - expected).abs().max() / expected.max()).item())
    assert store.store.hits >= len(wanted)
    return furthest


@measure
def qst_step_over_lora(run: Path) -> float:
    """Time of forward and backward passes over that of LoRA (rank 16, all linears), on the same rows."""
    from ftcli.reproduce.probe import rebuild_run
    from ftcli.run.build import build_run

    side = rebuild_run(run)
    side.load_model()
    lora = build_run({**side.config, "method": LORA})
    lora.load_model()
    batches, spent = load_first_batches(side, BATCHES), [0.0, 0.0]
    for turn in range(ROUNDS + 1):
        for i, variant in enumerate((side, lora)):
            seconds = measure_seconds(variant, batches)
            spent[i] += seconds if turn else 0.0  # the first turn includes the choice of kernels
    return spent[0] / spent[1]


def load_first_batches(run: Run, count: int) -> list[dict[str, Any]]:
    """Return the batches that the run trains on first."""
    loader = run.build_loader()
    return [loader.batch(rows) for rows in loader.list_batch_indices(0)[:count]]


def measure_seconds(run: Run, batches: list[dict[str, Any]]) -> float:
    """Return seconds of forward and backward passes; on a CPU the process's time, not the clock's."""
    import torch

    from ftcli.reproduce.probe import loss_of

    on_gpu = run.accelerator.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    run.model.train()
    began = clock()
    for batch in batches:
        loss_of(run, run.model, batch).sum().backward()
        run.model.zero_grad()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - began


@measure
def qst_kept_step_ratio(run: Path) -> float:
    """Time of forward and backward passes with cached hidden states over that without."""
    from ftcli.papers.qst.states import HiddenStates, Store
    from ftcli.papers.qst.tuner import side_layer
    from ftcli.run.build import open_run

    trained = open_run(run)
    layer, batches = side_layer(trained.model), load_first_batches(trained, BATCHES)
    kept, spent = HiddenStates(Store(float("inf"))), {False: 0.0, True: 0.0}
    for turn in range(ROUNDS + 1):
        for with_kept in spent:
            layer.states = kept if with_kept else None
            seconds = measure_seconds(trained, batches)
            spent[with_kept] += seconds if turn else 0.0  # the first turn fills the store
    return spent[True] / spent[False]
