"""LoRA-GA (arXiv 2407.05000): LoRA initialised so that its first step approximates that of full finetuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.calibration import calibration_batches, objective_loss, sum_gradients
from ftcli.methods.peft import ADAPTER
from ftcli.methods.shifted import ShiftedLora, weight_of

if TYPE_CHECKING:
    from ftcli.core.run import Run

Direction = Literal["ArB2r", "A2rBr", "ArBr", "random"]
EXACT_UP_TO = 1024  # rows or columns up to which a full SVD is taken: a second on one CPU core
#: Iterations of the randomised SVD. The authors' code takes 4. On a matrix whose singular values do not
#: decay (normal, 64 x 64, r=4) the equation was then 15 % off, 1.6 % with 8 and 0.02 % with 16; they
#: cost little beside the gradient.
ITERATIONS = 16


class LoraGA(ShiftedLora):
    """LoRA with factors from the singular vectors of the gradient; further keys are peft.LoraConfig's.

    The change of scale * B A in the first step of gradient descent is then, up to a factor, the best
    approximation of rank 2r to the step of full finetuning: with eta the scale,
    eta^2 (B B^T G + G A^T A) = eta^2 (sqrt(out) / gamma) G_2r. The gradient G is that of the run's
    objective over the samples, on the base without dropout.

    PEFT's `init_lora_weights=lora_ga` differs: it multiplies B by singular values and scales only B,
    for which the equation does not hold.

    Args:
        direction: which of the first 2r singular vectors go to A and which to B. ArB2r: the first r to
            A, the others to B; A2rBr: the reverse; ArBr: the first, third, ... to B, the others to A;
            random: a random half to each.
        gamma: the squared norm of each vector of the factors is sqrt(out) / gamma.
        samples: training rows whose gradient is taken (`ftcli.methods.calibration.calibration_batches`
            says which).
        batch_size: rows a backward pass.
        config_class: peft.LoraConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: adapter weights in float32 also where the base has half precision.
    """

    def __init__(
        self,
        direction: Direction = "ArB2r",
        gamma: float = 16.0,
        samples: int = 8,
        batch_size: int = 1,
        config_class: ClassPath = "peft.LoraConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        self.direction, self.gamma = direction, gamma
        self.samples, self.batch_size = samples, batch_size

    def factors(self, run: Run, layers: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, A0 [r, in] and B0 [out, r] of every layer that the samples reach."""
        gradients = layer_gradients(run, layers, self.samples, self.batch_size)
        generator = torch.Generator().manual_seed(run.seed)
        for name in list(gradients):
            gradient, r = gradients.pop(name), layers[name].r[ADAPTER]
            gradient = gradient.to(weight_of(layers[name]).device)
            _refuse_wide(name, r, gradient)
            yield name, *gradient_factors(gradient, r, self.gamma, self.direction, generator)


def layer_gradients(
    run: Run, layers: Mapping[str, Any], samples: int, batch_size: int = 1
) -> dict[str, Tensor]:
    """Return name -> gradient [out, in] of the base's loss over the first training rows.

    float32 on the CPU. A layer that no row reaches is absent.

    Args:
        layers: name -> LoRA layer.
        samples, batch_size: as in `ftcli.methods.calibration.calibration_batches`, which says in which
            order rows are taken.
    """
    drawn = list(calibration_batches(run, samples, batch_size))
    weights = {name: layer.get_base_layer().weight for name, layer in layers.items()}
    gradients = sum_gradients(run.model, weights, drawn, objective_loss(run, drawn))
    return {name: g.T if layers[name].fan_in_fan_out else g for name, g in gradients.items()}


def gradient_factors(
    gradient: Tensor,
    r: int,
    gamma: float,
    direction: Direction = "ArB2r",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r] from a gradient [out, in] (section 3, "stable" scale).

    Their vectors are singular vectors times out^(1/4) / sqrt(gamma); the singular values are not used.
    """
    left, right = singular_vectors(gradient, 2 * r, generator)
    of_a, of_b = _split_directions(direction, r, generator)
    length = gradient.shape[0] ** 0.25 / gamma**0.5
    return length * right[:, of_a].T, length * left[:, of_b]


def singular_vectors(
    matrix: Tensor, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return the first `count` left [m, count] and right [n, count] singular vectors.

    For matrices above EXACT_UP_TO they come from subspace iteration with 2 * count vectors (Halko et al.,
    arXiv 0909.4061, algorithm 5.1), which is accurate where singular values fall fast, as those of
    gradients do.
    """
    matrix = matrix.float()
    if min(matrix.shape) <= EXACT_UP_TO:
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :count], right[:count].T
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng([matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(seed)  # torch.svd_lowrank takes no generator
        left, _, right = torch.svd_lowrank(
            matrix, q=min(2 * count, *matrix.shape), niter=ITERATIONS
        )
    return left[:, :count], right[:, :count]


def _split_directions(
    direction: Direction, r: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return the indices, among the first 2r vectors, of those for A and of those for B."""
    order = torch.arange(2 * r)
    if direction == "ArB2r":
        return order[:r], order[r:]
    if direction == "A2rBr":
        return order[r:], order[:r]
    if direction == "ArBr":
        return order[1::2], order[0::2]
    order = torch.randperm(2 * r, generator=generator)
    return order[:r], order[r:]


def _refuse_wide(name: str, r: int, gradient: Tensor) -> None:
    if 2 * r > min(gradient.shape):
        raise UserError(
            f"r={r} needs {2 * r} singular vectors, and the gradient of {name} "
            f"({gradient.shape[0]} x {gradient.shape[1]}) has {min(gradient.shape)}.",
            where="method.r",
            fix=f"method.r={min(gradient.shape) // 2}",
        )
