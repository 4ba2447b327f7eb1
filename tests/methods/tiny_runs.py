"""Real runs through ftcli's Trainer on tiny models and a few rows of E2E, in this process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from ftcli.config import compose, validate_and_convert
from ftcli.config.job import ComposedJob
from ftcli.core.errors import Problems, UserError

from .options import capabilities, capability, kinds, storages
from .tiny import HEADS, SIZES, write_gpt2

Choices = dict[str, str]
BLOCKS = 4  # of which a quarter is one
VOCABULARY = 4096  # of the shipped tokenizer
#: Every option as its own file has it, and every group there, which composes fastest.
JOB = """\
defaults:
  - model: llama_mini
  - data: e2e
  - method: lora
  - trainable: all
  - objective: causal_lm
  - penalty: none
  - optimizer: adamw
  - scheduler: linear
  - trainer: default
  - eval: none
  - logger: default
  - run: default
  - _self_

run: {dir: FOLDER/runs}
model: {dtype: float32, tokenizer: "asset:llama_mini"}
data: {limit: 24, max_length: 96, validation: 0.2, cache_dir: FOLDER/tokens}
optimizer: {lr: 1.0e-3}
trainer:
  precision: fp32
  max_steps: 4
  batch_size: 2
  log_every: 1
  save_every: null
"""


def write_llama(folder: Path) -> None:
    sizes = {**SIZES, **HEADS, "vocab_size": VOCABULARY, "num_hidden_layers": BLOCKS}
    LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0)).save_pretrained(folder)


class JobBuilder:
    """Makes jobs of options, each on a tiny model that its method fits.

    Args:
        folder: holds models, tokens and runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "tiny.yaml"
        self.file.write_text(JOB.replace("FOLDER", str(folder)))
        self.model = cache(self._model)

    def _model(self, kind: str) -> Path:
        target = self.folder / kind
        if kind == "llama":
            write_llama(target)
        else:
            write_gpt2(target, vocab_size=VOCABULARY, n_layer=BLOCKS)
        return target

    def job(self, choices: Choices) -> ComposedJob:
        """A checked job.

        Args:
            choices: group -> option, and further keys -> values; a key of `~group` does without.

        Raises:
            UserError: the choices contradict each other.
        """
        chosen = {"method": "lora"} | choices
        words = self._method_keys(chosen["method"]) | chosen
        typed = [key if key.startswith("~") else f"{key}={value}" for key, value in words.items()]
        composed = compose(self.file, typed)
        validate_and_convert(composed)
        return composed

    def _method_keys(self, name: str) -> Choices:
        """A model the method fits, and what its file leaves to the user."""
        kind = "llama" if "llama" in kinds(name) else "gpt2"
        required = {f"method.{k}": str(v) for k, v in capabilities(name).get("given", {}).items()}
        model = {"model.path": str(self.model(kind)), "model.quantization": storages(name)[0]}
        if not capability(name, "packable"):
            model["data.packing"] = "none"
        return model | required


def read_fix(error: UserError) -> Choices:
    """Key -> value of the first way out that a message names."""
    errors = error.problems if isinstance(error, Problems) else [error]
    fixes: Choices = {}
    for problem in errors:
        first = re.split(r";|,? or |, ", (problem.fix or "").removeprefix("either "))[0]
        words = [w for w in first.split() if re.fullmatch(r"~[\w.]+|[\w.]+=\S+", w)]
        for word in words:
            key, _, value = word.partition("=")
            fixes[key] = value
    return fixes


def apply_fix(choices: Choices, error: UserError) -> Choices:
    """The choices after one has done what a message says.

    Raises:
        UserError: the same, where it names no way out.
    """
    words = read_fix(error)
    if not words or all(choices.get(key) == value for key, value in words.items()):
        raise error
    kept = {
        key: value
        for key, value in choices.items()
        if f"~{key.partition('.')[0]}" not in words
        and not (key.partition(".")[0] in words and "." in key)
    }
    return kept | words


@contextmanager
def without_report() -> Iterator[None]:
    """Plots take longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftcli.run.finish.write_report", lambda run_dir: None)
        yield
