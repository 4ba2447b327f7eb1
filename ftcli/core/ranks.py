"""The ranks of a run: its devices, what they tell each other, and where the weights lie.

No other module imports accelerate's collectives or torch's data parallelism. With `ddp` each rank holds all weights and
gradients are averaged. With `fsdp2` each rank holds a part of every weight, gradient and optimizer state
(torch's `fully_shard`); the whole weights of a block exist while it computes.

accelerate 1.15 joins the ranks and wraps for DDP. Its own preparation for FSDP2 is not used: it drops the plugin
on CPUs, and puts the output layer into one group with the last norm and the tied embeddings. This group does not fit
objectives, which call the output layer outside of the model's forward: it is freed after the backward pass of the
output layer, before that of the norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

Strategy = Literal["ddp", "fsdp2"]


def build_accelerator() -> Accelerator:
    """Return accelerate's view of devices and ranks; joins the process group that torchrun has announced.

    Mixed precision is left to `Run.autocast`, which evaluation shares.
    """
    import torch
    from accelerate import Accelerator

    return Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())


def distribute_model(
    model: Any, accelerator: Accelerator, strategy: Strategy, blocks: Iterable[nn.Module]
) -> nn.Module:
    """Return the module that forward passes call: the model itself, sharded in place, or wrapped by DDP.

    Args:
        blocks: the repeated blocks; under fsdp2 the weights of each are gathered and freed together.
    """
    if accelerator.num_processes == 1:
        return model  # type: ignore[no-any-return]
    if strategy == "ddp":
        return accelerator.prepare_model(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    # what lies outside the blocks stays whole from the forward to the end of the backward pass
    root = fully_shard(_base(model), mesh=mesh)
    root._is_fsdp_managed_module = True  # read by `generate`: all ranks end after the same token
    return model  # type: ignore[no-any-return]


def no_gradient_sync(model: Any, accelerator: Accelerator) -> AbstractContextManager[None]:
    """Return a context in which backward passes add to this rank's gradients without averaging them over ranks."""
    if accelerator.num_processes == 1:
        return nullcontext()
    return _unsynchronised(_base(model)) if is_sharded(model) else accelerator.no_sync(model)


@contextmanager
def _unsynchronised(root: Any) -> Iterator[None]:
    root.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        root.set_requires_gradient_sync(True)


def is_sharded(model: Any) -> bool:
    """Whether this rank holds only a part of every weight."""
    return getattr(_base(model), "_is_fsdp_managed_module", False) is True


def free_gathered(model: Any) -> None:
    """Free the whole weights that forward passes without a backward pass have left; the parts may change now."""
    if is_sharded(model):
        _base(model).reshard()


def _base(model: Any) -> Any:
    """Return the model without an adapter's wrapper, which `generate` and the reference model pass by."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model


def gather_full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one; must be called on all ranks, since they exchange their shards."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def get_local_shard(tensor: Tensor) -> Tensor:
    """Return the shard of a tensor that this rank holds: all of it, unless it is sharded."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def broadcast_from_main(accelerator: Accelerator, value: Any) -> Any:
    """Return the first rank's value on every rank."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def broadcast_tensor(accelerator: Accelerator, value: Tensor) -> Tensor:
    """Return the first rank's tensor on every rank, on the device of each where there are several."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast

    return broadcast(value.to(accelerator.device).contiguous())  # type: ignore[no-any-return]


def gather_objects(accelerator: Accelerator, value: Any) -> list[Any]:
    """Return the values of all ranks, in their order, on every rank."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return list(gather_object([value]))


def largest_over_ranks(model: Any, count: int) -> int:
    """Return the number of forward passes that this rank must make: the largest `count` of any rank where the
    model is sharded, because its ranks compute together; otherwise its own `count`.
    """
    if not is_sharded(model):
        return count
    import torch.distributed as dist

    counts = [0] * dist.get_world_size()
    dist.all_gather_object(counts, count)
    return max(counts)
