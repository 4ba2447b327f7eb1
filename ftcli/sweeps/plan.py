"""What a sweep was asked to do, as sweep.yaml in its folder keeps it for a resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.atomic import write_text
from ftcli.core.errors import UserError

FILE = "sweep.yaml"


@dataclass
class Plan:
    """A sweep as it was asked for.

    Attributes:
        job: the YAML all trials start from.
        overrides: what followed it, as typed.
        metric: a score (`eval.loss`) or a cost (`seconds`) of result.json.
        lower: whether less of it is better.
        optuna: search instead of trying every combination.
        trials: how many the search makes.
        pruner: how hopeless trials are told: none, median, hyperband.
        every, steps: between evaluations on the way, and of a whole trial.
        seed: of the search.
        launcher: option of the group launcher; None: the job's own, or local.
        jobs: trials at a time; None: the launcher's.
        grid: of a grid, each trial's folder, values and command line.
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
