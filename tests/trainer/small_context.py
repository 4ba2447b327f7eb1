"""A minimal training context around one small layer, with all that a checkpoint reads of a context."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import torch

from ftcli.core.run_dir import RunDir
from ftcli.trainer import checkpoint_io
from ftcli.trainer.checkpoint import Checkpoints
from ftcli.trainer.meter import Meter


class Small:
    """A training context whose `save` is called with the step.

    Args:
        width: of the layer; a checkpoint holds 12 bytes times its square once it has been trained.
    """

    def __init__(self, folder, width=8):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
        self.layer = torch.nn.Linear(width, width)
        self.optimizer = torch.optim.AdamW(self.layer.parameters())
        nothing = SimpleNamespace(state_dict=dict)
        self.run = SimpleNamespace(
            dir=RunDir(folder),
            config={},
            get_trained_tensors=self.layer.state_dict,
            evaluation_weights=nullcontext,
            method=SimpleNamespace(describe=lambda: {"r": 4}),
        )
        self.callbacks = {"method": nothing}
        counters = dict.fromkeys(checkpoint_io.COUNTERS, 0) | {"best": None, "max_steps": 100}
        self.state = SimpleNamespace(**counters)
        self.meter, self.fingerprint = Meter(), ""
        self.saves_shards, self.micro_batches_per_step = False, 1
        self.accelerator = SimpleNamespace(is_main_process=True, num_processes=1)
        self.checkpoints = Checkpoints(self.run.dir.checkpoints)

    def save(self, step, **options):
        self.state.step = step
        self.run.dir.append_metrics({"step": step})
        return self.checkpoints.save(self, **options)

    def names(self):
        return [path.name for path in self.checkpoints.list_complete()]

    def events(self):
        lines = (self.run.dir.path / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def train(self):
        """Take one step, so that the optimizer has state."""
        self.layer(torch.ones(1, self.layer.in_features)).sum().backward()
        self.optimizer.step()
