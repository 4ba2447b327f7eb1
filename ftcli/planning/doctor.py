"""Whether this machine can train: packages, hardware, hub, disk, and a short real run."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ftcli import __version__
from ftcli.core.errors import UserError
from ftcli.planning.findings import Finding, fail, ok, warn
from ftcli.planning.machine import free_disk, free_memory

if TYPE_CHECKING:
    from packaging.requirements import Requirement


LITTLE_DISK = 5e9  # bytes below which a run of a large model may fill the disk
STEPS, CUT = 3, 2  # steps of the run, and the one it is resumed from
JOB = "qlora_mini"
SMALL = (
    f"trainer.max_steps={STEPS}", "trainer.save_every=1", "trainer.batch_size=4", "eval=none",
    "data.limit=64", "data.validation=null", "data.test=null", "run.name=doctor",
)  # fmt: skip
SECONDS = 300  # after which a verb is ended


def check_machine() -> Iterator[Finding]:
    """Yield the findings on packages, hardware, hub and disk; nothing is trained."""
    yield ok("ftcli", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from check_packages()
    yield from check_device()
    yield from check_four_bit()
    yield from check_kernels()
    yield check_hub()
    yield from check_disk()


def check_packages() -> Iterator[Finding]:
    """Compare installed versions with those that ftcli requires; name missing extras."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in requires("ftcli") or ()]
    satisfied, wrong = [], []
    missing: dict[str, list[str]] = {}
    for requirement in needed:
        extra = _extra(requirement)
        installed = _installed_version(requirement.name)
        if installed is None and extra:
            missing.setdefault(extra, []).append(requirement.name)
        elif installed is None or not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(
                f"{requirement.name} {installed or 'is missing'} (wanted {requirement.specifier})"
            )
        elif not extra:
            satisfied.append(f"{requirement.name} {installed}")
    if wrong:
        yield warn("packages", "; ".join(wrong), "pip install --upgrade ftcli")
    else:
        yield ok("packages", ", ".join(satisfied))
    for extra, names in missing.items():
        if extra != "dev":
            yield ok("extra", f"{extra}: without {', '.join(names)}; pip install 'ftcli[{extra}]'")


def _extra(requirement: Requirement) -> str | None:
    """Return the extra that a requirement belongs to."""
    match = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
    return match[1] if match else None


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_device() -> Iterator[Finding]:
    """Name GPU or CPU, its memory, and whether bf16 runs in hardware."""
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
        bf16 = bool({"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags())
    if bf16:
        yield ok("bf16", "in hardware")
    else:
        yield warn("bf16", "not in hardware, therefore slow", "trainer.precision=fp32")


def cpu_flags() -> set[str]:
    """Return the instruction sets of the CPU as Linux names them; empty on other systems."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(match[1].split()) if match else set()


def check_four_bit() -> Iterator[Finding]:
    """Check on this CPU or GPU that a 4-bit base still passes gradients after an evaluation.

    On CPUs with AVX512-BF16 bitsandbytes repacks weights in evaluation and drops gradients from
    then on; ftcli's loader turns that off.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from ftcli.models.causal_lm import CausalLMSource

    disable_progress_bar()
    model = CausalLMSource("asset:llama_mini", quantization="nf4").load()
    tokens = torch.arange(8, device=model.device)[None]
    inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
    gradients = []
    for _ in range(2):
        loss = model(inputs_embeds=inputs).logits.float().square().mean()
        gradients.append(torch.autograd.grad(loss, inputs)[0])
        with torch.no_grad():
            model(inputs_embeds=inputs)
    guarded = (
        "AVX512-BF16 path turned off" if "avx512_bf16" in cpu_flags() else "no AVX512-BF16 here"
    )
    if torch.allclose(gradients[0], gradients[1], rtol=1e-3):
        yield ok("4-bit", f"nf4 passes the same gradients before and after evaluation ({guarded})")
    else:
        yield warn("4-bit", "nf4 loses gradients after an evaluation", "model.quantization=none")


def check_kernels() -> Iterator[Finding]:
    """Name the installed packages with fused attention kernels; torch's own are always there."""
    names = [name for name in ("flash_attn", "kernels", "triton") if _installed_version(name)]
    yield ok("kernels", f"torch's fused attention; also installed: {', '.join(names) or 'none'}")


def check_hub() -> Finding:
    """Report whether a token is set (never the token), the offline switch and the cache."""
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token: gated models need `hf auth login`"
    offline = ", HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return ok("hub", f"{token}{offline}; cache {constants.HF_HUB_CACHE}")


def check_disk() -> Iterator[Finding]:
    """Check free space and the right to write where runs and token caches are stored."""
    from ftcli.data.cache import token_folder

    for name, place in (("runs", Path("runs")), ("token cache", token_folder())):
        free = free_disk(place)
        text = f"{name} in {place}: {free / 1e9:.1f} GB free"
        first = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        if not os.access(first, os.W_OK):
            yield warn("disk", f"{text}, but {first} cannot be written", "run.dir=FOLDER")
        elif free < LITTLE_DISK:
            yield warn("disk", text, "ftcli clean runs, or run.dir=FOLDER on another disk")
        else:
            yield ok("disk", text)


def train_and_resume() -> Iterator[Finding]:
    """Train `STEPS` steps of the shipped job, resume it from step `CUT`, compare the weights."""
    with TemporaryDirectory(prefix="ftcli-doctor-") as folder:
        try:
            start = time.perf_counter()
            _run_verb("train", JOB, *SMALL, f"run.dir={folder}", f"data.cache_dir={folder}/cache")
            yield ok(
                "train", f"{STEPS} steps of {JOB} and its checkpoints in {_format_elapsed(start)}"
            )
            run = (Path(folder) / "doctor" / "latest").resolve()
            uninterrupted = _read_adapter(run)
            _remove_end(run)
            start = time.perf_counter()
            _run_verb("resume", str(run))
            if _read_adapter(run) != uninterrupted:
                raise UserError("the resumed run has other weights than the uninterrupted one.")
            yield ok(
                "resume", f"from step {CUT}, to bit-identical weights, in {_format_elapsed(start)}"
            )
        except UserError as error:
            yield fail("train", error)


def _run_verb(*words: str) -> None:
    """Run a verb in another process.

    Raises:
        UserError: it ended with a status other than 0; the message has its last lines.
    """
    done = subprocess.run(
        [sys.executable, "-m", "ftcli", *words], capture_output=True, text=True, timeout=SECONDS,
        env=os.environ | {"FTCLI_QUIET": "1"},
    )  # fmt: skip
    if done.returncode:
        lines = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-6:])
        raise UserError(f"ftcli {words[0]} ended with status {done.returncode}: {lines}")


def _remove_end(run: Path) -> None:
    """Remove what a run that ended after the checkpoint of step `CUT` would not have on disk."""
    checkpoints = run / "checkpoints"
    shutil.rmtree(checkpoints / f"step-{STEPS:06d}")
    last = checkpoints / "last"
    last.unlink(missing_ok=True)
    last.symlink_to(f"step-{CUT:06d}")
    shutil.rmtree(run / "adapter")
    (run / "result.json").unlink()


def _read_adapter(run: Path) -> bytes:
    """Return the bytes of a run's adapter files.

    Raises:
        UserError: there is none.
    """
    files = sorted((run / "adapter").glob("*.safetensors"))
    if not files:
        raise UserError("the run has written no adapter.")
    return b"".join(file.read_bytes() for file in files)


def _format_elapsed(start: float) -> str:
    return f"{time.perf_counter() - start:.1f} s"
