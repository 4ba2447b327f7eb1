"""How a job's model would be given its rows, measured where its weights are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftcli.core.errors import UserError
from ftcli.core.logs import silenced
from ftcli.planning.draft import Draft
from ftcli.planning.findings import Finding, ok, unknown, warn

MOST = 500_000_000  # parameters that a check loads: a few seconds and about 2 GB


def packing_finding(draft: Draft) -> Iterator[Finding]:
    """The outcome of the proof that a run would make, and the draft's data settled by it.

    Raises:
        UserError: the packing that was asked for is not right for the model, or no way is.
    """
    from ftcli.models.anatomy import count_parameters
    from ftcli.objectives.causal_lm import CausalLM

    source, data = draft.source, draft.data
    if not hasattr(source, "prove") or not hasattr(data, "settle"):
        return
    wanted = draft.config["data"].get("packing") or "auto"
    if not _at_hand(source):
        yield _unmeasured(wanted, "its weights are not on this machine")
    elif (size := count_parameters(source.meta())) > MOST:
        yield _unmeasured(wanted, f"its {size / 1e9:.1f}e9 parameters are more than a check loads")
    else:
        if not draft.method.packable:
            wanted = "none"
        with silenced("data"):
            outcome = source.prove(source.load("cpu"), wanted, data.max_length, CausalLM())
        data.settle(outcome.packing, outcome.reading)
        yield _measured(outcome, wanted)


def _at_hand(source: Any) -> bool:
    from ftcli.planning.files import weights_finding

    return weights_finding(source).status == "ok"


def _unmeasured(wanted: str, why: str) -> Finding:
    what = f"{wanted}: whether documents stay apart is measured when the run starts; {why}."
    return unknown("packing", UserError(what))


def _measured(outcome: Any, wanted: str) -> Finding:
    attention = "" if outcome.attention == "documents" else ", with the attention of transformers"
    ways = {"alone": ", each row by itself", "reset": ", layers are told where documents end"}
    text = f"{outcome.packing}{ways.get(outcome.reading, '')}{attention}"
    if not outcome.reason:
        return ok("packing", f"{text}: losses are those of each row alone")
    return warn("packing", f"{text}: {outcome.reason}")
