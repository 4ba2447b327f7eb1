"""One small job for every kind of method: a dozen steps, a checkpoint every third, seconds in all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STEPS = 11
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
  - eval: loss
  - logger: default
  - run: default
  - _self_

run: {name: chaos}
model: {dtype: float32, tokenizer: "asset:llama_mini"}
data: {limit: 24, max_length: 96, validation: 0.2, test: null}
optimizer: {lr: 1.0e-2}
trainer:
  precision: fp32
  max_steps: STEPS
  batch_size: 2
  log_every: 2
  save_every: 3
  eval_every: 4
"""
RECIPE = """\
defaults: [job, _self_]
paper: {title: A paper, arxiv: "2000.00001", year: 2020}
baselines:
  slower: [optimizer.lr=1e-3]
claims:
  - {say: as good, measure: eval.loss, of: slower, within: 10}
"""
TINY = "model.path={tiny}"
KINDS: dict[str, tuple[str, ...]] = {
    "lora_nf4": ("method=qlora", "model.quantization=nf4", "method.r=4", "+method.lora_dropout=0.1"),
    "lisa": (TINY, "method=full", "trainable=lisa", "trainable.gamma=1", "trainable.interval=2"),
    "spiel": (
        TINY, "method=spiel", "optimizer=sparse_adamw", "+method.reselect_every=4",
        "+method.accumulate_steps=2",
    ),
    "mezo": (TINY, "method=full", "optimizer=mezo", "optimizer.lr=1e-3"),
    "qst": (TINY, "method=qst", "method.reduction=4", "trainer.gradient_accumulation_steps=2"),
    "grpo": (
        TINY, "objective=grpo", "objective.rewards={length: {weight: 1, longest: 6}}",
        "+objective.num_generations=2", "+objective.max_new_tokens=6", "method.r=2", "eval=none",
    ),
    "diffusion": (
        "model=ldm_emoji", "data=emoji", "objective=diffusion", "method=full", "eval=denoising",
        "objective.caption_dropout=0.1", "data.max_length=16",
    ),
}  # fmt: skip
SWEEP, REPRODUCTION = "sweep", "reproduction"  # of the job of QST, the quickest


@dataclass(frozen=True)
class Bench:
    """Jobs and the model they share, in a folder."""

    folder: Path

    def write(self) -> None:
        """Write them; the model has random weights that are always the same."""
        from .zygote import apart

        self.job.write_text(JOB.replace("STEPS", str(STEPS)))
        self.job.with_name("recipe.yaml").write_text(RECIPE)
        apart(self._model)

    def _model(self) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=4096, hidden_size=64, intermediate_size=96, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(self.folder / "tiny")

    @property
    def job(self) -> Path:
        """The file of all kinds."""
        return self.folder / "job.yaml"

    def start(self, kind: str, place: Path) -> list[str]:
        """The command that begins a kind of run, which leaves everything it writes in `place`."""
        single = kind if kind in KINDS else "qst"
        own = [word.format(tiny=self.folder / "tiny") for word in KINDS[single] if "{tiny" in word]
        own += [word for word in KINDS[single] if "{tiny" not in word]
        if kind not in KINDS:
            own = [word for word in own if not word.startswith("trainer.")]
            own += ["trainer.max_steps=4", "trainer.save_every=1", "trainer.eval_every=2"]
        own += [f"run.dir={place}/runs"]
        own += [f"data.cache_dir={place}/tokens"] if "data=emoji" not in own else []
        if kind == SWEEP:
            words = ["sweep", str(self.job), *own, "optimizer.lr=1e-2,1e-3"]
            return [*words, "--dir", f"{place}/sweeps"]
        if kind == REPRODUCTION:
            recipe = str(self.job.with_name("recipe.yaml"))
            return ["reproduce", recipe, *own, "--seeds", "1"]
        return ["train", str(self.job), *own]
