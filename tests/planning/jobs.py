"""Jobs of the shipped model, drafted."""

from __future__ import annotations

from typing import Any

from ftcli.config import compose, validate
from ftcli.planning.machine import RUNTIME, Machine
from ftcli.planning.meta_run import MetaRun
from ftcli.planning.plan import Plan

PLAIN = ("model.quantization=none", "method=lora")


def build_job(*overrides: str, job: str = "qlora_llama") -> MetaRun:
    """A composed and validated job without weights."""
    composed = compose(job, overrides)
    validate(composed)
    return MetaRun(composed)


def machine(memory: float, kind: str = "cuda") -> Machine:
    """A machine with as many bytes."""
    return Machine("a machine", kind, int(memory), assumed=True)


def build_plan(*overrides: str, gpu: float | None = None) -> Plan:
    """A plan for a GPU of as many GB."""
    job = build_job(*overrides)
    return Plan(MetaRun(job.composed, gpu is not None), gpu)


def parts(made: Any) -> dict[str, int]:
    """The parts that are there at the peak."""
    return {name: size for name, size in made.memory.parts().items() if size}


__all__ = ["PLAIN", "RUNTIME", "build_job", "machine", "parts", "build_plan"]
