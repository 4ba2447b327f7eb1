"""A latent diffusion model of diffusers: loading its parts, and which of them a method may change."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ftcli.core.errors import UserError, missing_package
from ftcli.models import hub
from ftcli.models.parts import AUTOENCODER, DENOISER, FOLDERS, NAMES, TEXT, LatentDiffusion, Patches
from ftcli.models.state_dict_check import (
    Misfit,
    Shapes,
    UnexpectedKeysPolicy,
    compare_shapes,
    translate_conversion_error,
)
from ftcli.models.weight_files import DIFFUSION, MODEL, WeightFiles, find_weight_files

Part = Literal["denoiser", "text_encoder", "autoencoder"]


@dataclass
class LdmSource:
    """Loads a UNet denoiser with text encoder, autoencoder and noise schedule, as Stable Diffusion 1 and 2.

    Parts are found by their folders (unet, text_encoder, vae, scheduler, tokenizer). Methods act on those
    named in `trains`, under names that begin with the part's (`denoiser.mid_block...`); the others are
    frozen.
    """

    path: str  # hub id, folder, or asset:NAME for one that ships
    architecture: str | None = None  # shipped configs used if neither hub nor files are available
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"  # auto: the precision's
    revision: str | None = None  # branch, tag or commit on the hub
    tokenizer: str | None = None  # hub id or folder; null: the one beside the weights
    trains: list[Part] = field(default_factory=lambda: ["denoiser"])  # parts a method may change
    weights: Literal["pretrained", "random"] = "pretrained"  # random: new ones, for pretraining
    extra_weights: UnexpectedKeysPolicy = (
        "refuse"  # tensors in the files that a part has no parameter for
    )

    def __post_init__(self) -> None:
        unknown = [name for name in self.trains if name not in NAMES]
        if unknown:
            raise UserError(
                f"{unknown[0]} is no part of a diffusion model.",
                where="model.trains",
                fix=f"some of {', '.join(NAMES)}",
            )

    def load(self, device: str | None = None) -> LatentDiffusion:
        """Load the parts with their weights, in eval mode.

        Raises:
            UserError: a part is missing or unreadable, its files do not hold exactly its parameters,
                or diffusers is not installed.
        """
        _require_diffusers()
        if self.weights == "random":
            return self._build_new()
        path = hub.resolve(self.path)
        classes = {
            DENOISER: _unet_class(),
            TEXT: _text_model_class(),
            AUTOENCODER: self._autoencoder_class(path),
        }

        def load(local: bool) -> LatentDiffusion:
            options = self._options(local) | {"torch_dtype": self._dtype()}
            unet, text, vae = (
                self._load_part(path, n, kind, options) for n, kind in classes.items()
            )
            return LatentDiffusion(unet, text, vae, self._load_scheduler(path, local), self.trains)

        cached = bool(self.weight_files())
        if cached:
            self.check_files()
        with hub.quiet_progress_bars(), translate_conversion_error(path, TEXT):
            model = hub.load_cached_first(path, self.revision, load)
        if not cached:
            self.check_files()  # they were downloaded just now
        return (model.to(device) if device else model).eval()

    def build_meta_model(self) -> LatentDiffusion:
        """Build the model on the meta device: every shape, no memory, no weights."""
        _require_diffusers()
        with torch.device("meta"):
            return self._build_new()

    def check_files(self) -> str:
        """Check by the headers of its files that every part can be loaded.

        Raises:
            UserError: tensors of a part are missing, or do not fit.
        """
        _require_diffusers()
        model = self.build_meta_model()
        for name, files in self._files().items():
            part, shapes = model.part(name), files.shapes()
            title = f"{self.name}/{FOLDERS[name]}"
            if name == TEXT:
                misfit = compare_shapes(title, part, shapes, {})
            else:
                misfit = _compare_part(part, shapes)
            misfit.refuse(title, part, shapes, self.extra_weights)
        return ""

    def weight_files(self) -> list[WeightFiles]:
        """Return the files that are loaded, as far as they are on this machine."""
        return [] if self.weights == "random" else list(self._files().values())

    def _files(self) -> dict[str, WeightFiles]:
        """Return the files of each part, by its name."""
        path, files_of = hub.resolve(self.path), {}
        for name, folder in FOLDERS.items():
            file = MODEL if name == TEXT else DIFFUSION
            files = find_weight_files(path, self.revision, file, folder)
            if files is not None:
                files_of[name] = files
        return files_of

    def load_tokenizer(self) -> Any:
        """Load the tokenizer of the text encoder, with a padding token.

        Raises:
            UserError: it is missing.
        """
        from transformers import AutoTokenizer

        path = hub.resolve(self.tokenizer or self.path, "model.tokenizer")
        inside = "tokenizer" if self._has(path, "tokenizer") else ""
        revision = None if self.tokenizer else self.revision

        def load(local: bool) -> Any:
            options: dict[str, Any] = {"revision": revision or "main", "local_files_only": local}
            options["trust_remote_code"] = False
            return AutoTokenizer.from_pretrained(path, subfolder=inside, **options)

        tokenizer = hub.load_cached_first(path, revision, load)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.model_max_length = self._read_configs()[FOLDERS[TEXT]]["max_position_embeddings"]
        return tokenizer

    def hf_config(self) -> dict[str, Any]:
        """Return the denoiser's configuration."""
        return self._read_configs()[FOLDERS[DENOISER]]

    def example_inputs(self, rows: int) -> dict[str, torch.Tensor]:
        """Return zero inputs of `rows` images of the size that the denoiser is built for."""
        configs = self._read_configs()
        unet, text = configs[FOLDERS[DENOISER]], configs[FOLDERS[TEXT]]
        edge = unet["sample_size"]
        return {
            "latents": torch.zeros(rows, unet["in_channels"], edge, edge),
            "timesteps": torch.zeros(rows, dtype=torch.int64),
            "input_ids": torch.zeros(rows, text["max_position_embeddings"], dtype=torch.int64),
        }

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return Path(self.path.removeprefix("asset:")).name

    def _build_new(self) -> LatentDiffusion:
        """Build the parts with weights drawn from torch's generator."""
        from diffusers import AutoencoderKL, DDPMScheduler
        from transformers import CLIPTextConfig

        configs = self._read_configs()
        text = _text_model_class()(CLIPTextConfig(**configs[FOLDERS[TEXT]]))
        vae = configs[FOLDERS[AUTOENCODER]]
        autoencoder: nn.Module = (
            Patches(vae["factor"])
            if vae["_class_name"] == Patches.__name__
            else AutoencoderKL.from_config(vae)
        )
        with torch.device(
            "cpu"
        ):  # a table of numbers, on the CPU also for a model on the meta device
            scheduler = DDPMScheduler.from_config(configs["scheduler"])
        unet = _unet_class().from_config(configs[FOLDERS[DENOISER]])
        model = LatentDiffusion(unet, text, autoencoder, scheduler, self.trains)
        return model.to(self._dtype()).eval()

    def _read_configs(self) -> dict[str, dict[str, Any]]:
        """Return the configuration of each part, by its folder."""
        folder = Path(hub.resolve(self.path))
        if not folder.is_dir():
            if self.architecture is None:
                raise UserError(
                    f"{self.path} is not on this machine, and no architecture stands in for it.",
                    where="model.architecture",
                    fix="model.path=FOLDER, or model.architecture=sd1_5",
                )
            folder = hub.ASSETS / "architectures" / self.architecture
        files = {place: folder / place / "config.json" for place in FOLDERS.values()}
        files["scheduler"] = folder / "scheduler" / "scheduler_config.json"
        missing = [place for place, file in files.items() if not file.is_file()]
        if missing:
            raise UserError(
                f"{folder} holds no {missing[0]}/{files[missing[0]].name}: it is no diffusion model.",
                where="model.path",
                fix="model.path=FOLDER in the layout of diffusers, or model=ldm_emoji, which ships",
            )
        return {place: json.loads(f.read_text(encoding="utf-8")) for place, f in files.items()}

    def _load_part(self, path: str, name: str, kind: Any, options: dict[str, Any]) -> nn.Module:
        if kind is Patches:
            return Patches(self._read_configs()[FOLDERS[name]]["factor"])
        if name == TEXT:
            options = {k: v for k, v in options.items() if k != "torch_dtype"}
            options["dtype"] = self._dtype()
        return kind.from_pretrained(path, subfolder=FOLDERS[name], use_safetensors=True, **options)

    def _load_scheduler(self, path: str, local: bool) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_pretrained(path, subfolder="scheduler", **self._options(local))

    def _autoencoder_class(self, path: str) -> Any:
        from diffusers import AutoencoderKL

        name = hub.is_local(path) and self._read_configs()[FOLDERS[AUTOENCODER]].get("_class_name")
        return Patches if name == Patches.__name__ else AutoencoderKL

    def _options(self, local: bool) -> dict[str, Any]:
        return {"revision": self.revision or "main", "local_files_only": local}

    def _has(self, path: str, folder: str) -> bool:
        """Whether a model has this folder; on the hub all are assumed to be there."""
        if self.tokenizer:
            return False
        return not hub.is_local(path) or (Path(path) / folder).is_dir()

    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.dtype == "auto" else getattr(torch, self.dtype)


def _compare_part(part: Any, shapes: Shapes) -> Misfit:
    """Compare tensors of these shapes with a part of diffusers, which renames old attention keys."""
    stored: Any = OrderedDict(shapes)
    part._fix_state_dict_keys_on_load(stored)
    expected = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    ignored = [re.compile(p) for p in part._keys_to_ignore_on_load_unexpected or ()]
    unexpected = [n for n in stored if n not in expected and not any(p.search(n) for p in ignored)]
    return Misfit(
        {name: shape for name, shape in expected.items() if name not in stored},
        {name: stored[name] for name in unexpected},
        {
            n: (stored[n], shape)
            for n, shape in expected.items()
            if n in stored and stored[n] != shape
        },
    )


def _unet_class() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel


def _text_model_class() -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel


def _require_diffusers() -> None:
    try:
        import diffusers  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package("diffusers", "diffusion", "a diffusion model") from error
