"""Weights and optimizer state of a checkpoint in torch's distributed format, for `trainer.strategy=fsdp2`.

Every rank writes its parts to a safetensors file of its own, `shard-00001-model-....safetensors`, whose header
says which part of which tensor it holds (`torch.distributed.checkpoint`, its Hugging Face storage: no pickle).
Each rank of a run that resumes, however many there are, reads the parts that it needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

if TYPE_CHECKING:
    from ftcli.trainer.context import TrainingContext

PATTERN = "shard-*.safetensors"
WEIGHTS, OPTIMIZER = "weights.", "optimizer."  # prefixes of the names of tensors
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def holds_shards(folder: Path) -> bool:
    """Whether a checkpoint was written by `write_shards`."""
    return any(folder.glob(PATTERN))


def write_shards(folder: Path, context: TrainingContext) -> None:
    """Write this rank's parts; must be called on all ranks, with a folder that all of them see.

    Raises:
        OSError: on all ranks, where one of them could not write.
    """
    run = context.run
    tensors = {WEIGHTS + name: tensor for name, tensor in run.get_trained_tensors().items()}
    state: dict[str, Any] = get_optimizer_state_dict(run.model, context.optimizer, options=FLAT)
    tensors |= {OPTIMIZER + k: value for k, value in state.items() if isinstance(value, Tensor)}
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _alone_without_warning():
            dcp.save(tensors, storage_writer=writer, no_dist=context.accelerator.num_processes == 1)
    except dcp.CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from error


def read_shards(folder: Path, context: TrainingContext) -> None:
    """Read this rank's parts of the trained weights and of the optimizer state, in place."""
    run = context.run
    weights = run.get_trained_tensors()
    tensors = {WEIGHTS + name: tensor for name, tensor in weights.items()}
    # torch takes a step of rate 0 here, so that there is a state to read into
    state: dict[str, Any] = get_optimizer_state_dict(run.model, context.optimizer, options=FLAT)
    tensors |= {OPTIMIZER + k: value for k, value in state.items() if isinstance(value, Tensor)}
    alone = context.accelerator.num_processes == 1
    with _alone_without_warning():
        dcp.load(tensors, storage_reader=_reader(folder), no_dist=alone)
    set_optimizer_state_dict(run.model, context.optimizer, state, options=FLAT)


def read_whole_weights(folder: Path) -> dict[str, Tensor]:
    """Return the trained weights, put together from the parts of all ranks."""
    reader: Any = _reader(folder)
    metadata = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(found.size, dtype=found.properties.dtype)
        for name, found in metadata.items()
        if name.startswith(WEIGHTS)
    }
    with _alone_without_warning():
        dcp.load(tensors, storage_reader=_reader(folder), no_dist=True)
    return {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items()}


@contextmanager
def _alone_without_warning() -> Iterator[None]:
    """Suppress torch's warning that one process is alone, which it gives although `no_dist` says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reader(folder: Path) -> dcp.HuggingFaceStorageReader:
    return dcp.HuggingFaceStorageReader(str(folder))
