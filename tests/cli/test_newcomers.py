"""What people type who know another program: one message, whose way out works as it stands."""

from __future__ import annotations

import shlex

import pytest

#: What is typed, a part of what is said, and the way out.
LINES = (
    ("train qlora_mini -m optimizer.lr=1e-4,2e-4", "-m is `ftcli sweep` here",
     "ftcli sweep qlora_mini optimizer.lr=1e-4,2e-4"),
    ("train --multirun qlora_mini method.r=4,8", "`ftcli sweep`", "ftcli sweep qlora_mini method.r=4,8"),
    ("train --config my.yaml", "a job is given without --config", "ftcli train my.yaml"),
    ("train --config-name=my.yaml seed=1", "without --config-name", "ftcli train my.yaml seed=1"),
    ("check -c my.yaml", "without -c", "ftcli check my.yaml"),
    ("--config my.yaml", "a verb comes first", "ftcli train my.yaml"),
    ("qlora_mini", "a verb comes first", "ftcli train qlora_mini"),
    ("train", "no job is given", "ftcli train qlora_llama"),
    ("train optimizer.lr=1e-4", "no job is given", "ftcli train qlora_llama optimizer.lr=1e-4"),
    ("train optimizer.lr=1e-4 my.yaml", "the job comes first", "ftcli train my.yaml optimizer.lr=1e-4"),
    ("train qlora_mini my.yaml", "one job at a time", "ftcli train qlora_mini && ftcli train my.yaml"),
    ("train qlora_mini --learning-rate 1e-4", "--learning-rate is the setting optimizer.lr",
     "ftcli train qlora_mini optimizer.lr=1e-4"),
    ("train qlora_mini --lr=1e-4 --batch-size 8", "--batch-size is the setting trainer.batch_size",
     "ftcli train qlora_mini optimizer.lr=1e-4 trainer.batch_size=8"),
    ("train --bf16 qlora_mini --num_train_epochs 2 --output_dir out", "--bf16 is the setting trainer.precision",
     "ftcli train qlora_mini trainer.precision=bf16 trainer.epochs=2 run.dir=out"),
    ("train qlora_mini --lora-r 8 --gradient-checkpointing", "--lora-r is the setting method.r",
     "ftcli train qlora_mini method.r=8 trainer.gradient_checkpointing=true"),
    ("train qlora_mini --model owner/name --method lora", "--model is the setting model.path",
     "ftcli train qlora_mini model.path=owner/name method=lora"),
    ("train qlora_mini --load-in-4bit", "--load-in-4bit is the setting model.quantization",
     "ftcli train qlora_mini model.quantization=nf4"),
    ("train qlora_mini --set lr=1e-4", "--set is left out", "ftcli train qlora_mini optimizer.lr=1e-4"),
    ("train qlora_mini --dryrun", "--dryrun is written --dry-run", "ftcli train qlora_mini --dry-run"),
    ("train qlora_mini --frobnicate 3", "No such option: --frobnicate", "see: ftcli schema"),
    ("check qlora_mini optimizer.lr = 1e-4", "no blanks around its =", "ftcli check qlora_mini optimizer.lr=1e-4"),
    ("check qlora_mini optimizer.lr= 1e-4", "no blanks around its =", "ftcli check qlora_mini optimizer.lr=1e-4"),
    ("check qlora_mini lr:1e-4", "written key=value", "ftcli check qlora_mini optimizer.lr=1e-4"),
    ("check qlora_mini 'lr: 1e-4'", "written key=value", "ftcli check qlora_mini optimizer.lr=1e-4"),
    ("check qlora_mini data.prompt_template={prompt} Answer:", "stands in quotes",
     "ftcli check qlora_mini \"data.prompt_template='{prompt} Answer:'\""),
    ("check qlora_mini lr=1e-4", "Did you mean optimizer.lr?", "optimizer.lr=0.0001"),
    ("check qlora_mini num_epochs=3", "Did you mean trainer.epochs?", "trainer.epochs=3"),
    ("check qlora_mini optim.lr=1e-4", "Did you mean optimizer?", "optimizer.lr=0.0001"),
    ("check qlora_mini modle=llama_mini", "Did you mean model?", "model=llama_mini"),
    ("check qlora_mini trainer.bf16=true", "Did you mean trainer.precision?", "trainer.precision=bf16"),
    ("check qlora_mini load_in_4bit=true", "Did you mean model.quantization?",
     "model.quantization=nf4, or one of none, fp4, int8"),
    ("check qlora_mini method=LoRA", "no such method. Closest: lora", "method=lora; "),
    ("check qlora_mini optimizer=AdamW", "no such optimizer. Closest: adamw", "optimizer=adamw; "),
    ("check qlora_mini model=owner/name", "model=owner/name: no such model", "model.path=owner/name"),
    ("check qlora_mini model=./base", "model=./base: no such model", "model.path=./base"),
    ("check qlora_mini data=mine.jsonl", "data=mine.jsonl: no such data", "ftcli init --data mine.jsonl"),
    ("check qlora_mini method.target_modules=q_proj,v_proj", "several values where one is wanted",
     "a list is method.target_modules=[q_proj,v_proj]; to try each: ftcli sweep"),
    ("train yours.yaml", "no such file or job", "my.yaml, or one of: ftcli ls jobs"),
    ("train .", "is a folder without a config.yaml. It holds my.yaml.", "my.yaml"),
)  # fmt: skip


@pytest.mark.parametrize(("line", "says", "fix"), LINES, ids=[line[0] for line in LINES])
def test_one_message_whose_way_out_works(ftcli, work, line, says, fix):
    (work / "my.yaml").write_text("defaults: [qlora_mini, _self_]\n")
    (work / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 30)
    words = shlex.split(line)
    ended = ftcli(*words)
    assert ended.status == 2 and says in ended.err, ended.err
    shown = [row for row in ended.err.splitlines() if row.startswith("→ ")]
    assert len(shown) == 1 and shown[0].startswith(f"→ {fix}"), ended.err
    assert not (work / "runs").exists()
    for command in pasted(shown[0][2:], words):
        outcome = ftcli(*command)
        assert outcome.status == 0, (command, outcome.err)


def pasted(fix: str, words: list[str]) -> list[list[str]]:
    """The commands that a way out stands for; what would train is shown instead."""
    first = fix.removeprefix("a list is ").split("; ")[0].split(", or ")[0]
    if first.startswith("see:"):
        return [shlex.split(first.removeprefix("see: ftcli"))]
    if not first.startswith("ftcli"):  # a word in the place of the last one that was typed
        return [["show", *words[1:-1], *shlex.split(first)]]
    commands = [shlex.split(command)[1:] for command in first.split(" && ")]
    for command in commands:
        if command[0] == "sweep":
            command[:] = ["show", *(word.split(",")[0] for word in command[1:])]
        elif command[0] in ("train", "check"):
            command[:] = ["show", *(word for word in command[1:] if word != "--dry-run")]
    return commands


@pytest.mark.parametrize(
    "line",
    [
        "show qlora_mini method.target_modules=[nope,8] data.path=absent.jsonl",
        "show --json qlora_mini '~eval' '+data.note=a b'",
        "sweep --resume nowhere",
        "check qlora_mini --gpu 24 data.path=absent.jsonl",
    ],
)
def test_what_is_written_rightly_keeps_its_own_message(ftcli, work, line):
    outcome = ftcli(*shlex.split(line))
    for other in ("written key=value", "comes first", "no job is given", "blanks"):
        assert other not in outcome.err


def test_a_job_of_another_program_is_told_key_by_key(ftcli, work):
    (work / "axolotl.yaml").write_text(
        "base_model: owner/name\nload_in_4bit: true\nlearning_rate: 0.0002\nnum_epochs: 3\n"
        "bf16: true\nsequence_len: 2048\nlora_r: 16\noutput_dir: ./out\n"
    )
    ended = ftcli("train", "axolotl.yaml")
    assert ended.status == 2
    fixes = [line[2:] for line in ended.err.splitlines() if line.startswith("→ ")]
    assert fixes == [
        "write `path: owner/name` under `model:`",
        "write `quantization: nf4` under `model:`, or one of none, fp4, int8",
        "write `lr: 0.0002` under `optimizer:`",
        "write `epochs: 3` under `trainer:`",
        "write `precision: bf16` under `trainer:`",
        "write `max_length: 2048` under `data:`",
        "write `r: 16` under `method:`",
        "write `dir: ./out` under `run:`",
        "start from a job: write `defaults: [qlora_llama, _self_]` there",
    ]
    # what the message says works
    keys: dict[str, list[str]] = {}
    for fix in fixes[:-1]:
        _, line, _, group, *_ = fix.split("`")
        keys.setdefault(group, []).append(f"  {line}\n")
    text = "".join(group + "\n" + "".join(lines) for group, lines in keys.items())
    (work / "axolotl.yaml").write_text(f"defaults: [qlora_mini, _self_]\n{text}")
    assert ftcli("show", "axolotl.yaml").status == 0
