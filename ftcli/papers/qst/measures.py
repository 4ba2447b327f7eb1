"""Measurements of the qst recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

KEPT_BATCHES = 4
BATCHES, ROUNDS = 4, 3
LORA = {"_target_": "ftcli.methods.peft.Peft", "r": 16, "lora_alpha": 32}


@measure(exact=True)
def qst_base_graph(run: Path) -> float:
    """Blocks whose output is part of autograd's graph in a step, and base tensors with a gradient."""
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    anatomy, inside = Anatomy(fresh.model), []
    for _, block in anatomy.blocks:
        block.register_forward_hook(lambda _m, _a, out: inside.append(out.requires_grad))
    fresh.model.train()
    loss_of(fresh, fresh.model, first_batch(fresh)).sum().backward()
    assert len(inside) == len(anatomy.blocks)
    base = [p for m in anatomy.modules.values() for p in m.parameters(recurse=False)]
    return float(sum(inside) + sum(p.grad is not None for p in base))


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
    """Largest difference of a token's loss, as a share of the largest loss, between kept states and none.

    Of the trained model, on the first batches of the second epoch after a first one that fills the
    store: documents meet others than those they were computed with.
    """
    import torch

    from ftcli.papers.qst.states import HiddenStates, Store
    from ftcli.papers.qst.tuner import side_layer
    from ftcli.reproduce.probe import loss_of
    from ftcli.run.build import open_run

    trained = open_run(run)
    loader, layer, furthest = trained.loader(), side_layer(trained.model), 0.0
    second = [loader.batch(rows) for rows in loader.batches(1)[:KEPT_BATCHES]]
    wanted = {row for batch in second for row in batch["rows"]}
    first = [rows for rows in loader.batches(0) if wanted & set(rows)]
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
    """Time of its forward and backward passes over LoRA's (rank 16, all linears), in turn, same rows."""
    from ftcli.reproduce.probe import rebuild_run
    from ftcli.run.build import build_run

    side = rebuild_run(run)
    side.load_model()
    lora = build_run({**side.config, "method": LORA})
    lora.load_model()
    batches, spent = first_batches(side, BATCHES), [0.0, 0.0]
    for turn in range(ROUNDS + 1):
        for i, one in enumerate((side, lora)):
            took = seconds(one, batches)
            spent[i] += took if turn else 0.0  # kernels are chosen in the first
    return spent[0] / spent[1]


def first_batches(run: Any, count: int) -> list[dict[str, Any]]:
    """What the run trains on first."""
    loader = run.loader()
    return [loader.batch(rows) for rows in loader.batches(0)[:count]]


def seconds(run: Any, batches: list[dict[str, Any]]) -> float:
    """Time of passes forward and backward; on a CPU that of the process, whatever else runs there."""
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
    """Time of forward and backward passes with kept hidden states over that of the same without."""
    from ftcli.papers.qst.states import HiddenStates, Store
    from ftcli.papers.qst.tuner import side_layer
    from ftcli.run.build import open_run

    trained = open_run(run)
    layer, batches = side_layer(trained.model), first_batches(trained, BATCHES)
    kept, spent = HiddenStates(Store(float("inf"))), {False: 0.0, True: 0.0}
    for turn in range(ROUNDS + 1):
        for with_kept in spent:
            layer.states = kept if with_kept else None
            took = seconds(trained, batches)
            spent[with_kept] += took if turn else 0.0  # the first fills the store
    return spent[True] / spent[False]
