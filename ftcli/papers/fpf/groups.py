"""Groups of parameters: every tensor of a model by its kind, selections of them, and their exclusive training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ftcli.core.errors import UserError

STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Group:
    """One parameter, or the running statistics of one BatchNorm.

    Attributes:
        name: that of the parameter; `<module>.statistics` for running means and variances.
        kind: kind of the module and role, such as `conv weight` or `batchnorm statistics`.
        module: the module that it belongs to.
        tensors: the parameter, or mean and variance.
    """

    name: str
    kind: str
    module: nn.Module
    tensors: tuple[Tensor, ...]

    @property
    def is_statistics(self) -> bool:
        """Whether these are running statistics, which forward passes move, not gradients."""
        return self.kind.endswith(" statistics")


def list_groups(model: nn.Module) -> list[Group]:
    """Return the groups of a model in the order of its modules; tied parameters once."""
    groups, seen = [], set()
    for path, module in model.named_modules():
        kind = _find_kind(module)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                full = f"{path}.{name}" if path else name
                groups.append(Group(full, f"{kind} {name}", module, (parameter,)))
        if getattr(module, "running_mean", None) is not None:
            tensors = tuple(getattr(module, name) for name in STATISTICS)
            groups.append(Group(f"{path}.statistics", f"{kind} statistics", module, tensors))
    return groups


def _find_kind(module: nn.Module) -> str:
    """Return the kind of a module that holds tensors; of others, such as blocks, the name of their class."""
    name = type(module).__name__.lower()
    if not list(module.parameters(recurse=False)) and getattr(module, "running_mean", None) is None:
        return name
    for kind in ("batchnorm", "layernorm", "rmsnorm", "conv", "linear", "embedding"):
        if kind in name:
            return kind
    return name


def select_groups(model: nn.Module, selection: Sequence[str]) -> list[Group]:
    """Return the groups of a model that a selection names, in the order of the model.

    Args:
        selection: `batchnorm` (weights, biases and statistics), `norms` (of any type), `first_conv`,
            `last_linear` (where it is tied to the embeddings, these), or patterns of names such as
            `*.bias` and `*.statistics`.

    Raises:
        UserError: an entry names no group.
    """
    groups = list_groups(model)
    chosen: set[str] = set()
    for entry in selection:
        belongs = _build_test(model, entry)
        names = {group.name for group in groups if belongs(group)}
        if not names:
            raise UserError(
                f"'{entry}' names none of the {len(groups)} groups of this model.",
                where="pipeline.groups",
                fix=f"batchnorm, norms, first_conv, last_linear, or a pattern such as {groups[0].name}",
            )
        chosen |= names
    return [group for group in groups if group.name in chosen]


def _build_test(model: nn.Module, entry: str) -> Callable[[Group], bool]:
    """Return the function that says whether a group belongs to one entry of a selection."""
    of_kind = {"batchnorm": "batchnorm", "norms": "norm"}
    if entry in of_kind:
        return lambda group: of_kind[entry] in group.kind.split(" ")[0]
    if entry in ("first_conv", "last_linear"):
        kind, place = ("conv", 0) if entry == "first_conv" else ("linear", -1)
        found = [module for module in model.modules() if _find_kind(module) == kind][place:][:1]
        held = {id(p) for module in found for p in module.parameters(recurse=False)}
        return lambda group: any(id(tensor) in held for tensor in group.tensors)
    return lambda group: fnmatchcase(group.name, entry)


@contextmanager
def train_only(model: nn.Module, groups: Sequence[Group]) -> Iterator[None]:
    """Let only these groups move in the block; afterwards everything is trained as before.

    Other parameters require no gradient. A BatchNorm whose statistics are selected normalises by the
    batch and updates them; any other one normalises by its statistics as they are, also where
    its weight and bias are trained, because a forward pass in training mode would move them.
    """
    selected = {id(tensor) for group in groups for tensor in group.tensors}
    required = {p: p.requires_grad for p in model.parameters()}
    norms = [m for m in model.modules() if getattr(m, "running_mean", None) is not None]
    training = {module: module.training for module in norms}
    try:
        for parameter, trained in required.items():
            parameter.requires_grad_(trained and id(parameter) in selected)
        for module in norms:
            module.train(id(module.running_mean) in selected)
        yield
    finally:
        for parameter, trained in required.items():
            parameter.requires_grad_(trained)
        for module, mode in training.items():
            module.train(mode)
