"""torchtune's LoRA parts in the order of its single-device recipe: packed rows, chunked cross-entropy.

The recipe itself trains weights of published models only, so its steps are written out here for a random
one: builder, PackedDataset, collator, CEWithChunkedOutputLoss, fused AdamW. As in the recipe, `bf16` is the type of all
weights, those of the adapters too.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from meter import Meter, pack_length, read_task, read_tokens

task = read_task()
meter = Meter(task)
logging.disable(logging.WARNING)

import torch  # noqa: E402
from torchtune.data import padded_collate_packed  # noqa: E402
from torchtune.datasets import PackedDataset  # noqa: E402
from torchtune.models.llama3_2 import lora_llama3_2  # noqa: E402
from torchtune.modules.loss import CEWithChunkedOutputLoss  # noqa: E402
from torchtune.modules.peft import get_adapter_params, set_trainable_params  # noqa: E402
from torchtune.training import set_default_dtype  # noqa: E402

config = json.loads((Path(task["folder"]) / "model/config.json").read_text(encoding="utf-8"))
rows = [{"tokens": row["input_ids"], "labels": row["labels"]} for row in read_tokens(task)]
length = pack_length(read_tokens(task), task["rows_a_step"])
torch.manual_seed(0)
dtype = torch.bfloat16 if task["precision"] == "bf16" else torch.float32
with set_default_dtype(dtype):
    model = lora_llama3_2(
        ["q_proj", "k_proj", "v_proj", "output_proj"], apply_lora_to_mlp=True,
        vocab_size=config["vocab_size"], num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"], num_kv_heads=config["num_key_value_heads"],
        embed_dim=config["hidden_size"], intermediate_dim=config["intermediate_size"],
        max_seq_len=length, lora_rank=task["rank"], lora_alpha=2 * task["rank"],
        tie_word_embeddings=config["tie_word_embeddings"],
    )  # fmt: skip
set_trainable_params(model, get_adapter_params(model))
for parameter in model.parameters():
    if not parameter.requires_grad and parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.02)  # as the model of the other programs
loss_function = CEWithChunkedOutputLoss()
model.set_num_output_chunks(loss_function.num_output_chunks)
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=task["lr"], fused=True)
packs = PackedDataset(rows, max_seq_len=length)
loader = torch.utils.data.DataLoader(packs, batch_size=1, collate_fn=padded_collate_packed)
tokens, steps, model = 0, 0, model.train()
while steps < task["steps"]:
    for batch in loader:
        real = int((batch["tokens"] != packs.padding_idx).sum())  # no row holds that id
        labels = torch.hstack((batch["labels"][..., 1:], torch.full((1, 1), -100)))
        logits = model(batch["tokens"], mask=batch["mask"], input_pos=batch["input_pos"])
        loss = loss_function(logits, labels)
        del logits  # as in the recipe: the loss has what it needs
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens, steps = tokens + real, steps + 1
        meter.end_step(tokens)
        if steps == task["steps"]:
            break
meter.report(trained=sum(p.numel() for p in trained), loss=float(loss))
