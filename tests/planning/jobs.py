"""Jobs of the shipped model on the meta device."""

from __future__ import annotations

from ftcli.config import compose, validate_and_convert
from ftcli.planning.machine import Machine
from ftcli.planning.meta_run import MetaRun
from ftcli.planning.plan import Plan

PLAIN = ("model.quantization=none", "method=lora")


def build_job(*overrides: str, job: str = "qlora_mini") -> MetaRun:
    """Compose and validate a job."""
    composed = compose(job, overrides)
    validate_and_convert(composed)
    return MetaRun(composed)


def machine(memory: float, kind: str = "cuda") -> Machine:
    """Return a machine with so many bytes."""
    return Machine("a machine", kind, int(memory), assumed=True)


def build_plan(*overrides: str, gpu: float | None = None) -> Plan:
    """Plan a job for a GPU of so many GB."""
    job = build_job(*overrides)
    return Plan(MetaRun(job.composed, gpu is not None), gpu)
