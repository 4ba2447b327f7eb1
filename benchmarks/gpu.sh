#!/usr/bin/env bash
# Llama 3.2 1B and Llama 3 8B on one GPU: ftcli, transformers + FlashAttention, TRL with Liger; under 8 minutes.
#
#   bash benchmarks/gpu.sh WHEELS          a bare machine whose python3 has torch for its GPU
#   bash benchmarks/gpu.sh --cpu-dry-run   tiny shapes on a CPU in the environment of ftcli
#
# WHEELS is made beforehand on a machine with network and the same version of Python; torch is that of the GPU's machine,
# and ftcli runs from this checkout:
#   pip wheel --wheel-dir WHEELS . trl==1.16.0 liger-kernel==0.8.5
#   rm -f WHEELS/{ftcli,torch,triton,nvidia_,cuda_}*
# FlashAttention has no wheel on the index: put one built for that torch there, or the peers run with sdpa, and the
# output says so.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$(date +%s)
if [ "${1:-}" = --cpu-dry-run ]; then
  shift
  exec "${PYTHON:-.venv/bin/python}" benchmarks/gpu.py --cpu-dry-run "$@"
fi
wheels=${1:?a folder of wheels, or --cpu-dry-run}
shift
python3 -m venv --system-site-packages build/gpu
build/gpu/bin/pip install --quiet --no-index --no-deps "$wheels"/*.whl
exec build/gpu/bin/python benchmarks/gpu.py --seconds $((450 - $(date +%s) + began)) "$@"
