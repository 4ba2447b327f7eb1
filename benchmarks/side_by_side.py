"""LoRA on ragged conversations: ftcli, plain transformers + peft, torchtune and TRL, in turn.

Every measurement is a process of its own on the same rows (`workload.py`): tokens a second without padding after
three steps that warm up, seconds from the call of the process to the end of its first step, peak resident memory.
Programs take turns within a round, medians are over rounds. `plain` runs in ftcli's environment; torchtune
and TRL run where `benchmarks/peers.sh` has installed them, and are named as missing elsewhere.

    bash benchmarks/peers.sh
    python benchmarks/side_by_side.py --out build/side_by_side.json     # 3 rounds
    python benchmarks/side_by_side.py --short                           # fewer steps, 1 round
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import table
from workload import ROOT, SHAPES, describe_rows, list_overrides, write_workload

SCRIPTS = Path(__file__).parent / "peers"
PROGRAMS = ("ftcli", "plain", "torchtune", "trl")
STEPS = {"tiny": 80, "heavy": 30, "nano": 8}
SHORT_STEPS = {"tiny": 24, "heavy": 8, "nano": 5}
ROWS_A_STEP = 4
RANK = 16
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SECONDS = 900  # after which a process is given up
Record = dict[str, Any]


def find_python(program: str, peers: Path) -> Path | None:
    """Return the interpreter of a program; None where it is not installed."""
    if program in ("ftcli", "plain"):
        return Path(sys.executable)
    python = (peers / program / "bin/python").absolute()  # its link is what makes a venv known
    return python if python.exists() else None


def build_task(folder: Path, precision: str, steps: int, rows_a_step: int, **more: Any) -> Record:
    """Return what a program is to do: the fields that the scripts in `peers/` read."""
    task: Record = {
        "folder": str(folder), "precision": precision, "steps": steps, "rows_a_step": rows_a_step,
        "rank": RANK, "lr": 1e-3, "quantization": "none", "attention": "sdpa", "liger": False,
        "flatten": False, "job": "qlora_mini",
    } | more  # fmt: skip
    task["overrides"] = [
        *list_overrides(folder, rows_a_step), f"trainer.precision={precision}",
        f"model.dtype={DTYPES[precision]}", f"model.quantization={task['quantization']}",
        f"method.r={RANK}", f"method.lora_alpha={2 * RANK}", f"optimizer.lr={task['lr']}",
        *task.get("overrides", []),
    ]  # fmt: skip
    return task


def run_program(program: str, python: Path, task: Record, seconds: float = SECONDS) -> Record:
    """Run one program in a new process; returns its figures, or `error` with its last line."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    environment["PYTHONPATH"] = str(task.get("build", ROOT)) if program == "ftcli" else ""
    words = json.dumps(task | {"began": time.time()})
    command = [str(python), str(SCRIPTS / f"run_{program}.py"), words]
    try:
        done = subprocess.run(
            command, env=environment, cwd=task.get("build", ROOT), timeout=seconds, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {seconds:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_ceiling(shape: str, precision: str, tokens: int, labels: int) -> Record:
    """Return the ceiling of the matrix products of a step, measured in a new process."""
    command = [
        sys.executable, str(Path(__file__).parent / "ceiling.py"), "--shape", shape,
        "--precision", precision, "--tokens", str(tokens), "--labels", str(labels), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def compare(
    shape: str, precision: str, folder: Path, steps: int, options: argparse.Namespace
) -> list[Record]:
    """Return a record of the ceiling, and one a program and round."""
    place = folder / f"{shape}-{precision}"
    write_workload(place, SHAPES[shape], DTYPES[precision], STEPS[shape] * ROWS_A_STEP, ROWS_A_STEP)
    rows, task = describe_rows(place), build_task(place, precision, steps, ROWS_A_STEP)
    tokens = round(rows["mean_length"] * ROWS_A_STEP)
    ceiling = measure_ceiling(shape, precision, tokens, round(tokens * rows["label_share"]))
    row = {"shape": shape, "precision": precision}
    records = [row | {"program": "ceiling", "rows": rows, **ceiling}]
    for round_ in range(options.rounds):
        for program in options.programs:
            python = find_python(program, options.peers)
            if python is None:
                continue
            figures = run_program(program, python, task)
            records.append(row | {"program": program, "round": round_, **figures})
            print(table.format_record(records[-1]), file=sys.stderr, flush=True)
    return records


def measure_commands(peers: Path, rounds: int) -> list[Record]:
    """Return seconds of `--help` of every program, and of `ftcli check` of a shipped job."""
    commands = {
        ("ftcli", "--help"): [sys.executable, "-m", "ftcli", "--help"],
        ("ftcli", "check"): [sys.executable, "-m", "ftcli", "check", "configs/qlora_mini.yaml"],
        ("torchtune", "--help"): [str(peers / "torchtune/bin/tune"), "--help"],
        ("trl", "--help"): [str(peers / "trl/bin/trl"), "--help"],
    }
    records = []
    for (program, verb), command in commands.items():
        if not Path(command[0]).exists():
            continue
        times = []
        for _ in range(rounds + 1):  # the first reads the files into memory
            began = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
            times.append(time.perf_counter() - began)
        median = statistics.median(times[1:])
        records.append({"program": program, "command": verb, "seconds": median})
    return records


def describe_machine(rounds: int) -> Record:
    """Return what it was measured on, and in how many rounds."""
    import torch

    from ftcli.run.record import environment

    env = environment()
    return {
        "device": env["gpus"][0] if env["gpus"] else env["processor"],
        "threads": torch.get_num_threads(),
        "packages": {name: env["packages"].get(name) for name in ("torch", "transformers", "peft")},
        "rounds": rounds,
    }


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=STEPS, default=["tiny", "heavy"])
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="of peers.sh")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="one round of fewer steps")
    parser.add_argument("--out", type=Path, default=ROOT / "build/side_by_side.json")
    options = parser.parse_args()
    if options.short:
        options.rounds = 1
    return options


def main() -> None:
    """Run the rounds, write the records and print the tables."""
    options = parse_options()
    missing = [name for name in options.programs if find_python(name, options.peers) is None]
    for name in missing:
        print(f"{name} is not installed in {options.peers}: bash benchmarks/peers.sh", flush=True)
    machine = describe_machine(options.rounds) | {"missing": missing}
    result: Record = {"machine": machine, "records": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes:
            for precision in options.precisions:
                steps = (SHORT_STEPS if options.short else STEPS)[shape]
                result["records"] += compare(shape, precision, Path(folder), steps, options)
                options.out.write_text(json.dumps(result, indent=1))
    result["records"] += measure_commands(options.peers, options.rounds)
    options.out.write_text(json.dumps(result, indent=1))
    print(table.format_side_by_side(result))


if __name__ == "__main__":
    main()
