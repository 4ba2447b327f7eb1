"""Whether this machine can train: packages, hardware, hub, disk, and a real little run."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ftcli import __version__
from ftcli.planning.findings import Finding, ok, warn
from ftcli.planning.machine import free_disk, free_memory

FEW = 5e9  # bytes of disk below which a run of a large model would not last


def findings() -> Iterator[Finding]:
    """One finding after the other, without training anything."""
    yield ok("ftcli", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from packages()
    yield from device()
    yield from four_bit()
    yield from kernels()
    yield hub()
    yield from disk()


def packages() -> Iterator[Finding]:
    """Installed versions against those that ftcli asks for; extras with the command that adds them."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in requires("ftcli") or ()]
    here, wrong = [], []
    missing: dict[str, list[str]] = {}
    for requirement in needed:
        extra = _extra(requirement)
        found = _version(requirement.name)
        if found is None and extra:
            missing.setdefault(extra, []).append(requirement.name)
        elif found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(
                f"{requirement.name} {found or 'is missing'} (wanted {requirement.specifier})"
            )
        elif not extra:
            here.append(f"{requirement.name} {found}")
    if wrong:
        yield warn("packages", "; ".join(wrong), "pip install --upgrade ftcli")
    else:
        yield ok("packages", ", ".join(here))
    for extra, names in missing.items():
        if extra != "dev":
            yield ok("extra", f"{extra}: without {', '.join(names)}; pip install 'ftcli[{extra}]'")


def _extra(requirement: object) -> str | None:
    found = re.search(r"extra == ['\"](\w+)['\"]", str(getattr(requirement, "marker", "")))
    return found[1] if found else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device() -> Iterator[Finding]:
    """GPU or CPU, its memory, and whether bf16 runs in hardware."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, whole = (size / 1e9 for size in torch.cuda.mem_get_info(index))
            name = torch.cuda.get_device_name(index)
            yield ok(
                "gpu",
                f"{index}: {name}, {free:.1f} of {whole:.1f} GB free, CUDA {torch.version.cuda}",
            )
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        cores, threads = os.cpu_count(), torch.get_num_threads()
        yield ok(
            "cpu", f"no GPU; {cores} cores, {threads} threads, {free_memory() / 1e9:.1f} GB free"
        )
        bf16 = bool({"avx512_bf16", "amx_bf16", "bf16"} & flags())
    if bf16:
        yield ok("bf16", "in hardware")
    else:
        yield warn("bf16", "not in hardware, therefore slow", "trainer.precision=fp32")


def flags() -> set[str]:
    """Instruction sets of this machine's CPU, as Linux names them; empty where it does not say."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def four_bit() -> Iterator[Finding]:
    """That a 4-bit base passes gradients on after it has been evaluated, on this very CPU or GPU.

    On CPUs with AVX512-BF16 bitsandbytes repacks weights in evaluation and drops gradients from
    then on; ftcli's loader turns that off.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from ftcli.models.causal_lm import CausalLM

    disable_progress_bar()
    model = CausalLM("asset:llama_mini", quantization="nf4").load()
    tokens = torch.arange(8, device=model.device)[None]
    inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
    gradients = []
    for _ in range(2):
        loss = model(inputs_embeds=inputs).logits.float().square().mean()
        gradients.append(torch.autograd.grad(loss, inputs)[0])
        with torch.no_grad():
            model(inputs_embeds=inputs)
    guarded = "AVX512-BF16 path turned off" if "avx512_bf16" in flags() else "no AVX512-BF16 here"
    if torch.allclose(gradients[0], gradients[1], rtol=1e-3):
        yield ok("4-bit", f"nf4 passes the same gradients before and after evaluation ({guarded})")
    else:
        yield warn("4-bit", "nf4 loses gradients after an evaluation", "model.quantization=none")


def kernels() -> Iterator[Finding]:
    """Fused attention: torch's own is always there."""
    found = [name for name in ("flash_attn", "kernels", "triton") if _version(name)]
    yield ok("kernels", f"torch's fused attention; also installed: {', '.join(found) or 'none'}")


def hub() -> Finding:
    """Token (never shown), offline switch, cache."""
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token: gated models need `hf auth login`"
    offline = ", HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return ok("hub", f"{token}{offline}; cache {constants.HF_HUB_CACHE}")


def disk() -> Iterator[Finding]:
    """Free space and the right to write where runs and token caches go."""
    from ftcli.data.cache import folder

    for name, place in (("runs", Path("runs")), ("token cache", folder())):
        free = free_disk(place)
        text = f"{name} in {place}: {free / 1e9:.1f} GB free"
        first = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        if not os.access(first, os.W_OK):
            yield warn("disk", f"{text}, but {first} cannot be written", "run.dir=FOLDER")
        elif free < FEW:
            yield warn("disk", text, "ftcli clean runs, or run.dir=FOLDER on another disk")
        else:
            yield ok("disk", text)
