"""Settings of a sweep, stored as sweep.yaml in its folder for a resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.atomic import write_text
from ftcli.core.errors import UserError

FILE = "sweep.yaml"


@dataclass
class Plan:
    """The settings of a sweep.

    Attributes:
        job: the YAML of all trials.
        overrides: words of the command line after the job.
        metric: a score (`eval.loss`) or a cost (`seconds`) of result.json.
        lower: whether a lower metric is better.
        optuna: whether to search with Optuna instead of a grid.
        trials: number of trials of the search.
        pruner: rule for stopping trials early: none, median, hyperband.
        every, steps: steps between evaluations, and steps of a whole trial.
        seed: seed of the search.
        launcher: option of the group launcher; None: the job's own, or local.
        jobs: number of parallel trials; None: the launcher's.
        grid: folder, values and command line of each trial of a grid.
    """

    job: str
    overrides: list[str]
    metric: str = "eval.loss"
    lower: bool = True
    optuna: bool = False
    trials: int | None = None
    pruner: str = "none"
    every: int = 1
    steps: int = 1
    seed: int = 0
    launcher: str | None = None
    jobs: int | None = None
    grid: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write sweep.yaml."""
        from omegaconf import OmegaConf

        write_text(folder / FILE, OmegaConf.to_yaml(OmegaConf.create(asdict(self))))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read sweep.yaml.

        Raises:
            UserError: the folder is not a sweep.
        """
        from omegaconf import OmegaConf

        if not (folder / FILE).is_file():
            raise UserError(
                f"{folder} is not a sweep: it has no {FILE}.",
                fix="ftcli sweep --resume sweeps/NAME/TIME",
            )
        kept: Any = OmegaConf.to_container(OmegaConf.load(folder / FILE))
        return cls(**kept)
