#!/usr/bin/env bash
# Installs the programs that the benchmarks compare with, each into an environment of its own.
#
#   bash benchmarks/peers.sh [FOLDER]      FOLDER/trl and FOLDER/torchtune; .venv-peers by default, 3 GB
#
# torch is installed first, by itself, so that its CPU build is taken where there is no GPU. torchtune 0.6.1
# (April 2025, the last release) names no version of torchao, and imports what torchao 0.16 removed.
set -euo pipefail
folder=${1:-.venv-peers}
python=${PYTHON:-python3}
mkdir -p "$folder"
echo '*' > "$folder/.gitignore"

# install NAME MODULE PACKAGE...: makes the environment unless its module can be imported already
install() {
  local place="$folder/$1" module=$2
  shift 2
  if "$place/bin/python" -c "import $module" > /dev/null 2>&1; then
    echo "$place: installed already"
    return
  fi
  "$python" -m venv "$place"
  "$place/bin/pip" install --quiet torch==2.13.0
  "$place/bin/pip" install --quiet "$@"
  "$place/bin/python" -c "import $module" > /dev/null
  echo "$place: $*"
}

install trl trl trl==1.16.0 transformers==5.24.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0
install torchtune torchtune torchtune==0.6.1 torchao==0.13.0
