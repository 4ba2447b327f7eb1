"""What a method's `setup` asks of a run, around a tiny model and a few padded rows."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from ftcli.objectives.causal_lm import NextTokenPrediction


class Rows:
    """A data node and its loader in one: documents of equal length, in order."""

    packing, max_length, cache_dir = "none", 12, None

    def __init__(self, ids):
        self.ids = ids

    def loader(self, split, tokenizer, batch_size, seed=0):
        self.batch_size = batch_size
        return self

    def prepare(self, split, tokenizer):
        return SimpleNamespace(fingerprint=str(self.ids.sum().item()))

    def list_batch_indices(self, epoch):
        return [list(rows) for rows in torch.arange(len(self.ids)).split(self.batch_size)]

    def batch(self, rows):
        ids = self.ids[[int(row) for row in rows]]
        return {
            "input_ids": ids,
            "labels": ids,
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(ids.shape[1]).expand_as(ids),
            "indices": rows,
            "num_supervised": ids[:, 1:].numel(),
        }


def rows(count=4, length=12, vocabulary=60, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (count, length), generator=generator)


def small_run(model, source, ids=None, seed=0):
    """A run of `model`; `source.load("cpu")` gives its base once more."""
    return SimpleNamespace(
        model=model,
        model_source=source,
        seed=seed,
        tokenizer=None,
        data=Rows(rows() if ids is None else ids),
        objective=NextTokenPrediction(),
        autocast=nullcontext,
        accelerator=SimpleNamespace(num_processes=1, device=torch.device("cpu")),
        trainer=SimpleNamespace(precision="fp32"),
        dir=None,
    )
