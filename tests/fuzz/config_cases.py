"""Configurations as they should not be: packaged files bent at random, and words nobody would type."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
#: Values of YAML, as text.
VALUES = (
    "", "null", "~", "true", "[]", "{}", "[1, [2, {a: 3}]]", "{a: {b: null}}", "-1", "0", "1e-4",
    "'1e-4'", "1e400", "-1e999", ".nan", ".inf", "-.inf", "nan", "9" * 400, "-" + "9" * 30, "0x10",
    "0o17", "1_000", "1:30", "2001-01-01", "'", '"', "''", '"\\x00"', "'a''b'", "\\", "é", "日本語",
    "🙂", "\u202eabc", "a\tb", "\ta", "x" * 5000, "${seed}", "${nowhere.at.all}", "${", "${}", "${a",
    "${${seed}}", "${oc.env:FTCLI_NOT_SET}", "${oc.env:HOME}", "${oc.env:}", "${oc.decode:'['}",
    "${oc.create:{a: 1}}", "${oc.select:x,${y}}", "${no_such:resolver}", "${optimizer}",
    "${.lr}", "${..lr}", "???", "!!python/object/apply:os.system ['true']", "!!python/name:os.system",
    "!!binary aGk=", "!!set {a, b}", "!!str", "!unknown x", "&a [*a]", "*nowhere", "&a {b: *a}",
    "| \n    text", "> folded", "@x", "`x`", "%x", "- a", "a: b: c", "../../../etc/passwd",
    "/dev/null", "/", ".", "asset:../../x", "asset:", "owner/name", "os.system", "builtins.eval",
    "ftcli.jobs.launch.subprocess.Popen", "ftcli.data", "ftcli", ".", "..", "a.b.c", "peft.LoraConfig",
    "torch.optim.SGD", "qlora", "full", "none", "auto", "8", "3.5", "[a, b]", "{a: 1, a: 2}",
    "{_target_: os.system}", "[{_target_: builtins.eval}]", "{_target_: null}", "{_target_: [x]}",
    "{_args_: [1]}", "{_partial_: true}", "{}}", "[", "]", "{", ",", "#", "# x", "? x", "? [a]", ":",
)  # fmt: skip
#: Words that are no `key=value` of any key, but what a hand or a script may give.
WORDS = (
    "", " ", "=", "==", "a", "a=", "=a", "a==b", "a=b=c", "a.b", ".a=1", "a.=1", "a..b=1", "+", "++",
    "~", "~~a", "~a=b", "+a=1", "++a=1", "+method.r=1", "++method.r=[", "~method", "~method.r",
    "~optimizer", "~model", "~data", "~eval", "~nothing", "~defaults", "+defaults=[x]", "defaults=x",
    "method=", "method=null", "method=[lora,full]", "method=lora,full", "method={a:1}", "method=3",
    "method=../method/lora", "method=/etc/passwd", "method=lo ra", "method=lora.yaml", "model=nope",
    "eval=[loss,generation]", "eval=[loss,nope]", "+eval=loss", "logger=null", "penalty=[]",
    "method@x=lora", "method@method=lora", "+method@a.b=lora", "hydra.run.dir=x", "hydra=x",
    "hydra.searchpath=[file:///nowhere]", "hydra.searchpath=3", "hydra/launcher=x", "hydra.x.y=1",
    "optimizer.lr=1e-3,1e-4", "optimizer.lr=range(1,5)", "optimizer.lr=interval(1,2)",
    "optimizer.lr=choice(1,2)", "method=glob(*)", "optimizer.lr=sort(3,1)", "optimizer.lr=shuffle(1,2)",
    "optimizer.lr=float('x')", "optimizer.lr=int(1.5)", "optimizer.lr=json_str([)", "a=extend_list(1)",
    "optimizer.lr=tag(x, 1)", "optimizer=${method}", "seed=${seed}", "seed=${oc.env:X_NOT_SET,1}",
    "seed=\x00", "\x00", "se\ned=1", "séed=1", "🙂=1", "seed=🙂", "seed=1;rm", "seed=$(x)", "seed=`x`",
    "method.r={a:1,b:}", "method.r={a:{b:{c:{d:{e:1}}}}}", "method.r=[[[[[[]]]]]]", "method.r=((1))",
    "trainer.max_steps=1e3", "trainer.batch_size=0", "optimizer.lr=-1", "optimizer.lr=nan",
    "optimizer.lr=inf", "data.max_length=99999999999999999999", "data.limit=-5", "seed=-1",
    "seed=1.5", "data.path=", "data.path=''", "model.path=[]", "run.name=../x", "run.name=/abs",
    "run.name=", "run.name=..", "run.dir=/dev/null/x", "stages=[]", "stages=[{a:1}]", "stages=3",
    "stages=[3]", "init_from=/nowhere", "pipeline=fedkseed", "launcher=submitit", "launcher=nope",
    "model.from_recipe=nope", "model.from_recipe=bases/llama_mini", "model.from_recipe=../x",
    "eval.loss=3", "eval.loss=null", "eval=3", "eval.new={_target_:ftcli.evaluation.loss.Loss}",
    "requires.x=1", "method.requires=null", "method.requires.a.one_of=3", "method._target_=null",
    "method._target_=ftcli", "method._target_=ftcli.methods.peft", "method.config_class=peft",
    "method.config_class=torch.nn.Linear", "optimizer.optimizer_class=torch.optim.lr_scheduler.StepLR",
    "paper.title=x", "claims=[]", "claims=[3]", "variants=3", "seeds=x",
)  # fmt: skip
#: Things in the place of the job's file.
NAMES = (
    "nowhere.yaml", ".", "/", "", " ", "..", "qlora", "qlora_llam", "configs/method/lora.yaml", "\x00",
    "a" * 300, "~", "~nobody/x.yaml", "folder", "folder/", "locked.yaml", "link.yaml", "*.yaml", "-x",
    "http://x/y.yaml", "method/lora", "job.yml", "README.md", "🙂.yaml", "a\nb.yaml", "%s", "{}",
)  # fmt: skip


#: Where something may be written; all of it in the folder of the case.
TARGETS = (
    "out",
    "folder",
    "folder/",
    "",
    ".",
    "sub/x.yaml",
    "a" * 300,
    "locked.yaml",
    "\x00",
    "-x",
    "🙂",
)


@dataclass
class Case:
    """One command line, and the files it finds in an empty folder."""

    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"ftcli {' '.join(map(repr, self.words))}"


@cache
def packaged() -> tuple[str, ...]:
    """The text of every packaged job, recipe and option."""
    from ftcli.config import paths

    files = [*paths.list_jobs(paths.configs_dir()).values(), *paths.list_recipes().values()]
    files += [file for group in paths.list_groups() for file in paths.list_options(group).values()]
    return tuple(file.read_text(encoding="utf-8") for file in files)


@cache
def jobs() -> tuple[str, ...]:
    """Names of packaged jobs and recipes."""
    from ftcli.config import paths

    return (*paths.list_jobs(paths.configs_dir()), *paths.list_recipes())


@cache
def keys() -> tuple[str, ...]:
    """Keys that jobs have."""
    from ftcli.config import compose

    found = [compose(job) for job in ("qlora_mini", "lisa")]
    return tuple(sorted({key for one in found for key in (*one.origins, *one.mapping_origins)}))


def case(seed: int) -> Case:
    """The case of a number."""
    rng = random.Random(seed)
    words, files = _job(rng)
    overrides = [_override(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 4)))]
    return Case(_verb(rng, words, overrides), files)


def _job(rng: random.Random) -> tuple[str, dict[str, bytes]]:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(jobs()), {}
    if kind < 0.4:
        return rng.choice(NAMES), {"folder/x.txt": b"x"}
    name = rng.choice(("job.yaml", "job.yml", "job", "a b.yaml", "configs/method/job.yaml"))
    files = {name: _bytes(rng)}
    if rng.random() < 0.2:  # an option of one's own, broken as well
        files["method/mine.yaml"] = _bytes(rng)
        files[name] = b"defaults: [qlora_mini, {override method: mine}, _self_]\n"
    return name, files


def _bytes(rng: random.Random) -> bytes:
    text = _text(rng)
    kind = rng.random()
    if kind < 0.85:
        return text.encode("utf-8", "surrogatepass")
    if kind < 0.88:
        return b"\xef\xbb\xbf" + text.encode()
    if kind < 0.91:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-16-le")), "replace")
    if kind < 0.94:
        return rng.randbytes(rng.randrange(2000))
    if kind < 0.97:
        place = rng.randrange(len(text) + 1)
        return text[:place].encode() + rng.randbytes(3) + text[place:].encode()
    return rng.choice(
        (b"", b"\x00", b"\n", b"---\n", b"---\na: 1\n---\nb: 2\n", b"PK\x03\x04", b"%")
    )


def _text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.04:
        return BOMB
    if kind < 0.06:
        return "a: " + "[" * 3000 + "]" * 3000
    if kind < 0.08:
        return "".join(f"{' ' * depth}k:\n" for depth in range(rng.choice((50, 1500))))
    if kind < 0.11:
        return rng.choice(VALUES)
    base = rng.choice(packaged())
    if kind < 0.4:
        base = f"defaults: [qlora_mini, _self_]\n{_section(rng)}"
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        base = rng.choice(BENDS)(base, rng)
    return base


def _section(rng: random.Random) -> str:
    key = rng.choice(keys())
    parts = key.split(".")
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    return "\n".join(lines) + f" {rng.choice(VALUES)}\n"


def _override(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(WORDS)
    sign = rng.choice(("", "", "", "+", "++", "~"))
    key = rng.choice(keys())
    if rng.random() < 0.15:
        key = key.replace(rng.choice(key), rng.choice("xä. -\t@/"), 1)
    return f"{sign}{key}={rng.choice(VALUES)}"


def _verb(rng: random.Random, job: str, overrides: list[str]) -> list[str]:
    kind = rng.random()
    if kind < 0.5:
        return ["show", job, *overrides]
    if kind < 0.68:
        return ["train", job, *overrides]
    if kind < 0.78:
        swept = rng.choice(
            ("optimizer.lr=1,2", "seed=range(3)", "seed=range(1,1)", "seed=range(0,9,0)",
             "a=interval(2,1)", "method=glob(x*)", "seed=choice()", "optimizer.lr=interval(1e-4,1e-2)")
        )  # fmt: skip
        more = rng.choice(([], ["--optuna"], ["--jobs", "0"], ["--trials", "3"], ["--metric", "x"]))
        return ["sweep", job, *overrides, swept, *more]
    return rng.choice(OTHERS)(rng, job, overrides)


Bend = Callable[[str, random.Random], str]
Other = Callable[[random.Random, str, list[str]], list[str]]


def _line(text: str, rng: random.Random, change: Callable[[str], list[str]]) -> str:
    lines = text.splitlines() or [""]
    at = rng.randrange(len(lines))
    return "\n".join([*lines[:at], *change(lines[at]), *lines[at + 1 :]]) + "\n"


BENDS: tuple[Bend, ...] = (
    lambda t, r: _line(t, r, lambda line: [f"{line.partition(':')[0]}: {r.choice(VALUES)}"]),
    lambda t, r: _line(t, r, lambda line: [f"{line.partition(':')[0]}: {r.choice(VALUES)}"]),
    lambda t, r: _line(t, r, lambda line: [line, line]),
    lambda t, r: _line(t, r, lambda line: []),
    lambda t, r: _line(t, r, lambda line: [f"{' ' * r.randrange(5)}{line}"]),
    lambda t, r: _line(t, r, lambda line: [line, f"{' ' * r.randrange(5)}<<: *a"]),
    lambda t, r: _line(t, r, lambda line: [line.replace(":", r.choice((" :", ":", "::", "=")), 1)]),
    lambda t, r: _line(t, r, lambda line: [line, f"{r.choice(VALUES)}: {r.choice(VALUES)}"]),
    lambda t, r: t[: r.randrange(len(t) + 1)],
    lambda t, r: t.replace(
        r.choice(t or "x"), r.choice(("\t", "\x00", "\u2028", "'", "{", "${")), 1
    ),
)

OTHERS: tuple[Other, ...] = (
    lambda r, job, words: ["schema", r.choice((*WORDS, *keys(), *VALUES)) or "x"],
    lambda r, job, words: ["ls", r.choice((*VALUES, "runs", "methods"))],
    lambda r, job, words: ["ls", "recipes", r.choice(("--needs", "--family", "--verdict")),
                           r.choice(VALUES) or "x"],
    lambda r, job, words: ["cp", r.choice((*NAMES, *jobs(), "lora")), r.choice(TARGETS)],
    lambda r, job, words: ["reproduce", job, *words, *r.choice(
        ([], ["--scale", "x"], ["--only", "999"], ["--seeds", "0"], ["--seeds", "x"], ["--store"]))],
    lambda r, job, words: ["resume", r.choice((*NAMES, "run")), *r.choice(
        ([], ["--allow", "x"], ["--checkpoint", "x"], ["--checkpoint", "../x"]))],
    lambda r, job, words: ["sweep", "--resume", r.choice((*NAMES, "run"))],
    lambda r, job, words: ["compare", r.choice((*NAMES, "run"))],
    lambda r, job, words: ["init", r.choice(("--model", "--data", "--method")), r.choice(VALUES) or "x"],
    lambda r, job, words: ["show", job, *words, "--json"],
    lambda r, job, words: [r.choice(("", "trian", "-", "--", "show", "--x", "-h", "🙂", "\x00"))],
)  # fmt: skip

#: Needs torch and a tokenizer or a model on the meta device: seconds each, the campaign only.
DEEP: tuple[Other, ...] = (
    lambda r, job, words: ["check", job, *words],
    lambda r, job, words: ["plan", job, *words],
    lambda r, job, words: ["preview", job, *words, "-n", r.choice(("1", "0", "x"))],
    lambda r, job, words: ["delta", r.choice(("diff", "apply", "compress", "prune", "scale", "soup",
                           "transfer", "x")), r.choice((*NAMES, "run")), "--to", r.choice(TARGETS)],
    lambda r, job, words: ["delta", "apply", "run", "--to", "out", "--scale", r.choice(VALUES)],
    lambda r, job, words: ["eval", r.choice((*NAMES, "run")), "--tasks", r.choice(VALUES)],
    lambda r, job, words: ["merge", r.choice((*NAMES, "run")), "--to", r.choice(TARGETS)],
    lambda r, job, words: ["export", r.choice((*NAMES, "run")), "--to", r.choice(VALUES)],
    lambda r, job, words: ["chat", r.choice((*NAMES, "run")), "--prompt", r.choice(VALUES)],
)  # fmt: skip


#: Settings that are right by themselves, and may be wrong together or beyond what the shipped data hold.
MILD = (
    "data.max_length=2", "data.max_length=16", "data.limit=1", "data.limit=3", "data.packing=none",
    "data.packing=flat", "data.validation=0.99", "data.validation=0.0001", "data.validation=null",
    "data.train_on=all", "data.columns={}", "data.columns={prompt: nope}", "data.format=chat",
    "data.format=preference", "data.test=nope", "model.path=.", "model.path=./nowhere", "model=gpt2_mini",
    "model.attention=eager", "model.dtype=float16", "model.quantization=int8", "model.quantization=none",
    "model.chat_template='{{ x'", "model.chat_template=nope", "model.tokenizer=asset:none",
    "method=full", "method=vera", "method=ia3", "method=prompt_tuning", "method=adalora", "method.r=1",
    "method.r=4096", "method.r=0", "method.r=-3", "method.target_modules=[q_proj]", "method.lora_dropout=7",
    "method.target_modules=[nothing]", "method.target_modules='.*'", "method.target_modules='['",
    "method.bias=all", "method.layers_to_transform=[99]", "method.modules_to_save=[lm_head]",
    "optimizer=galore", "optimizer=mezo", "optimizer=sgd", "optimizer.betas=[2,3]", "optimizer.eps=-1",
    "trainable=lisa", "objective=dpo", "objective=grpo", "objective.chunk_size=0", "trainer.batch_size=1000000",
    "trainer.max_steps=0", "trainer.precision=bf16", "trainer.gradient_checkpointing=true",
    "scheduler=cosine", "scheduler.warmup_ratio=3", "eval.loss.split=nope", "eval.generation.metrics=[nope]",
)  # fmt: skip


def mild(seed: int) -> Case:
    """A sound job with one to three settings of `MILD`, looked at in depth."""
    rng = random.Random(f"mild {seed}")
    verb = rng.choice(("check", "check", "plan", "preview"))
    words = rng.sample(MILD, rng.choice((1, 2, 3)))
    return Case([verb, "qlora_mini", *words])


def deep(seed: int) -> Case:
    """As `case`, for the verbs that load something."""
    rng = random.Random(f"deep {seed}")
    words, files = _job(rng)
    overrides = [_override(rng) for _ in range(rng.choice((0, 1, 1, 2)))]
    return Case(rng.choice(DEEP)(rng, words, overrides), files | run_folder(rng))


def run_folder(rng: random.Random) -> dict[str, bytes]:
    """A run directory that is none."""
    files = {"run/config.yaml": _bytes(rng)}
    if rng.random() < 0.5:
        files["run/result.json"] = rng.choice((b"", b"{", b"[]", b"{}", b'{"status": 3}', b"\xff"))
    if rng.random() < 0.3:
        files["run/checkpoints/step-000001/DONE"] = b""
    if rng.random() < 0.3:
        files["run/adapter/adapter_config.json"] = rng.choice((b"", b"{}", b"[]", b"nul"))
    return files


def lay(case: Case, folder: Path) -> None:
    """Write the files of a case, and the usual traps: a folder, a link to nowhere, one not readable."""
    (folder / "folder").mkdir()
    (folder / "link.yaml").symlink_to("nowhere")
    locked = folder / "locked.yaml"
    locked.write_text("seed: 1\n")
    locked.chmod(0)
    for name, content in case.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
