#!/usr/bin/env bash
# Expected: torch.distributed's launcher, called from Python as torchrun does, gives the handlers of SIGTERM and SIGINT back
#   when the ranks have ended and it returns their results.
# Happens: its handlers stay. The next SIGTERM, or Ctrl-C, raises SignalException wherever the program is then, from a handler
#   that belongs to ranks which no longer exist; the program's own handler is never called.
# Who meets it: a program that trains on several ranks by elastic_launch and goes on: evaluates, writes a report, trains once more.
#   What helps: signal.getsignal before the call, signal.signal after it.
# Seen with: torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
cat > "$folder/program.py" <<'PY'
import signal

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def rank():
    return "done"


def own_handler(number, frame):
    print("own handler")


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, own_handler)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", max_restarts=0
    )
    print(f"torch {torch.__version__}: {elastic_launch(config, rank)()}")
    kept = {n.name: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    for name, handler in kept.items():
        print(f"{name} afterwards: {handler.__module__}.{handler.__name__}")
    try:
        signal.raise_signal(signal.SIGTERM)
        raised = None
    except Exception as error:  # noqa: BLE001
        raised = type(error).__name__
    print(f"SIGTERM then raises {raised}")
    assert all(h is not own_handler for h in kept.values()) and raised == "SignalException", "the behaviour has changed"
PY
OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" "$folder/program.py"
