"""Memory of a training step relative to a forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftcli.reproduce.measures import measure


@measure
def step_memory_over_inference(run: Path) -> float:
    """Peak of the first step of the run, over the peak of a forward pass on its first micro-batch.

    All live tensors count, those of the model included; both are measured in one process.
    """
    from ftcli.models.decoding import evaluation_mode
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run, trainer={"max_steps": 1, "eval_first": False, "eval_every": None})
    fresh.load_model()
    fresh.evaluators = {}
    fresh.objective.setup(fresh)
    batch = first_batch(fresh)
    with evaluation_mode(fresh) as model, Allocations(fresh.model) as inference:
        loss_of(fresh, model, batch)
    with Allocations(fresh.model) as step:
        fresh.trainer.fit(fresh)
    return step.peak / inference.peak


class Allocations(TorchDispatchMode):
    """Counts the bytes of storages that operations create, while a tensor refers to them.

    Scratch memory within an operation is not counted; of earlier tensors only the model's are.

    Attributes:
        peak: largest number of bytes alive at one time.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self._enter([*model.parameters(), *model.buffers()])

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count its results."""
        result = func(*args, **(kwargs or {}))
        self._enter([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        return result

    def _enter(self, tensors: Sequence[Tensor]) -> None:
        self.live = {key: kept for key, kept in self.live.items() if not kept[0].expired()}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
