"""Plain transformers + peft, as their own examples write the loop.

Batches are padded to their longest row; with `task["flatten"]` rows are laid end to end by transformers'
own collator, which needs FlashAttention (`task["attention"]`).
"""

from __future__ import annotations

from meter import Meter, read_task, read_tokens

task = read_task()
meter = Meter(task)

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
)

folder, half = f"{task['folder']}/model", task["precision"] == "bf16"
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if half else torch.float32
quantization = None
if task["quantization"] == "nf4":
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype=dtype, attn_implementation=task["attention"], device_map={"": device},
    quantization_config=quantization,
)  # fmt: skip
if quantization:
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
lora = LoraConfig(
    r=task["rank"], lora_alpha=2 * task["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
)
model = get_peft_model(model, lora).train()
if task["flatten"]:
    collate = DataCollatorWithFlattening(return_tensors="pt")
else:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    collate = DataCollatorForSeq2Seq(tokenizer, return_tensors="pt")
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=task["lr"], fused=True)
rows, size, tokens = read_tokens(task), task["rows_a_step"], 0
for step in range(task["steps"]):
    chosen = rows[step * size : (step + 1) * size]
    batch = {name: value.to(device) for name, value in collate(chosen).items()}
    with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
        loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    tokens += sum(len(row["input_ids"]) for row in chosen)
    meter.end_step(tokens)
meter.report(trained=sum(p.numel() for p in trained), loss=float(loss))
