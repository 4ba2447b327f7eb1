"""Plain transformers + peft, as their own examples write the loop.

Batches are padded to their longest row; with `task["flatten"]` rows are laid end to end by transformers'
own collator, which needs FlashAttention (`task["attention"]`).
"""

from __future__ import annotations

from meter import Meter, read_task, read_tokens

task = read_task()
meter = Meter(task)

import torch  # noqa: E402
from lora_model import DEVICE, describe_lora, load_base  # noqa: E402
from peft import get_peft_model, prepare_model_for_kbit_training  # noqa: E402
from transformers import (  # noqa: E402
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
)

torch.manual_seed(0)
model = load_base(task)
if task["quantization"] != "none":
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
model = get_peft_model(model, describe_lora(task)).train()
if task["flatten"]:
    collate = DataCollatorWithFlattening(return_tensors="pt")
else:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(f"{task['folder']}/model")
    collate = DataCollatorForSeq2Seq(tokenizer, return_tensors="pt")
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=task["lr"], fused=True)
rows, size, tokens = read_tokens(task), task["rows_a_step"], 0
for step in range(task["steps"]):
    chosen = rows[step * size : (step + 1) * size]
    batch = {name: value.to(DEVICE) for name, value in collate(chosen).items()}
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=task["precision"] == "bf16"):
        loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    tokens += sum(len(row["input_ids"]) for row in chosen)
    meter.end_step(tokens)
meter.report(trained=sum(p.numel() for p in trained), loss=float(loss))
