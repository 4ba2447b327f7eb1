#!/usr/bin/env bash
# Expected: `pip install mlflow-skinny`, then logging to a store on this machine: the default one, a sqlite
#   file, or a folder.
# Happens: all three are refused. The default and sqlite:///FILE say that the *model registry* does not
#   support the address and list 'file' among what it supports; a folder is refused as in maintenance mode.
#   What is missing is sqlalchemy and alembic, which no message names: with them the default works.
# Who meets it: scripts and trainers that log to MLflow without a server.
# Versions: mlflow-skinny 3.17.2, sqlalchemy 2.1.9, alembic 1.20.1.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv; . venv/bin/activate
pip install -qq mlflow-skinny==3.17.2
export MLFLOW_DISABLE_TELEMETRY=true; unset MLFLOW_TRACKING_URI MLFLOW_ALLOW_FILE_STORE
cat > log.py <<'PY'
import sys
import mlflow
from mlflow import MlflowClient
worked = []
for address in (None, "sqlite:///other.db", "./store"):
    try:
        client = MlflowClient(tracking_uri=address)
        run = client.create_run(client.create_experiment("demo")).info.run_id
        client.log_metric(run, "loss", 1.0)
        print(mlflow.__version__, address, "->", "logged")
        worked.append(address)
    except Exception as error:
        print(mlflow.__version__, address, "->", type(error).__name__, str(error)[:160])
sys.exit(0 if worked == eval(sys.argv[1]) else "the behaviour has changed")
PY
python log.py '[]'
pip install -qq sqlalchemy==2.1.9 alembic==1.20.1
python log.py '[None, "sqlite:///other.db"]' 2>/dev/null
