"""Models, adapters, tokenizers and checkpoints of a stranger: read as data, never run."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Artefact
from ftcli.models import hub
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.classifier import LOADERS, ClassifierSource
from ftcli.models.ldm import LdmSource
from ftcli.trainer import checkpoint_io


class Bomb:
    """Pickles to a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.fixture
def model(attack) -> Path:
    """The shipped model's folder, copied, with a Python file beside it that wins when it is imported."""
    folder = attack.folder / "model"
    shutil.copytree(hub.ASSETS / "models" / "llama_mini", folder)
    (folder / "evil.py").write_text(attack.code + "class Evil:\n    pass\n")
    return folder


def edit(file: Path, **values: object) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | values))


@pytest.mark.parametrize("saved", ["pickle", "torch"])
@pytest.mark.parametrize("name", ["optimizer.pt", "participants.pt", "rng.pt"])
def test_a_pickle_in_a_checkpoint_is_not_run(attack, name, saved):
    file = attack.folder / name
    if saved == "torch":
        torch.save({"state": Bomb(attack.shell)}, file)
    else:
        file.write_bytes(pickle.dumps({"state": Bomb(attack.shell)}))
    with pytest.raises((pickle.UnpicklingError, RuntimeError, UserError)):
        checkpoint_io.load_pt(file)
    assert not attack.won
    with contextlib.suppress(RuntimeError, TypeError, AttributeError):
        torch.load(file, weights_only=False)
    assert attack.won, "without the guard the attack works, or it is none"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_weights_are_safetensors_or_nothing(attack, model, name):
    for file in model.glob("*.safetensors*"):
        file.unlink()
    torch.save({"lm_head.weight": Bomb(attack.shell)}, model / name)
    with pytest.raises(UserError):
        CausalLMSource(path=str(model)).load("cpu")
    assert not attack.won


AUTO = {
    "AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoModelForCausalLM": "evil.Evil",
    "AutoTokenizer": ["evil.Evil", "evil.Evil"],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "evil_kind"])
def test_code_that_a_model_brings_is_not_run(attack, model, kind):
    """`auto_map` names a class in a Python file of the model's folder."""
    edit(model / "config.json", auto_map=AUTO, model_type=kind)
    edit(model / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="Evil")
    source = CausalLMSource(path=str(model))
    for part in (
        source.hf_config,
        source.load_tokenizer,
        lambda: source.load("cpu"),
        source.build_meta_model,
    ):
        try:
            part()
        except (UserError, ValueError):
            continue
    assert not attack.won


PROCESSORS = {"AutoImageProcessor": "evil.Evil", "AutoFeatureExtractor": "evil.Evil"}


@pytest.mark.parametrize("task", ["image", "audio", "text"])
def test_code_that_a_classifier_brings_is_not_run(attack, model, task):
    kinds = {loader.__name__: "evil.Evil" for loader in LOADERS.values()}
    edit(model / "config.json", auto_map=AUTO | kinds)
    edit(model / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="Evil")
    edit(model / "preprocessor_config.json", auto_map=PROCESSORS, processor_class="Evil")
    source = ClassifierSource(path=str(model), task=task, labels=2)
    for part in (source.load_tokenizer, source.build_meta_model, lambda: source.load("cpu")):
        with contextlib.suppress(UserError, ValueError):
            part()
    assert not attack.won


def test_code_that_the_tokenizer_of_a_diffusion_model_brings_is_not_run(attack, model):
    edit(model / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="Evil")
    with contextlib.suppress(UserError, ValueError):
        LdmSource(path="asset:ldm_emoji", tokenizer=str(model)).load_tokenizer()
    assert not attack.won


@pytest.mark.parametrize("kind", ["llama", "evil_kind"])
def test_code_is_not_run_to_see_what_a_delta_changes(attack, model, kind):
    edit(model / "config.json", auto_map=AUTO, model_type=kind)
    with contextlib.suppress(UserError, ValueError):
        assert Artefact.open(model).anatomy
    assert not attack.won


def test_code_that_an_adapter_names_is_not_run(attack, ftcli, model):
    folder = attack.folder / "adapter"
    folder.mkdir()
    edit(
        folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(model),
        auto_mapping={"parent_library": "evil", "base_model_class": "Evil"}, r=2,
        runtime_config={"_target_": "evil.Evil"}, megatron_core="evil", target_modules=["q_proj"],
    )  # fmt: skip
    torch.save({"x": Bomb(attack.shell)}, folder / "adapter_model.bin")
    attack.module("evil")
    with pytest.raises(UserError, match="no \\*.safetensors"):
        list(Artefact.open(folder).weights)
    save_file({"a.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    status, seen = ftcli("delta", "diff", str(folder), "--to", "out")
    assert status in (0, 2) and "Traceback" not in seen
    assert not attack.won


def lying(kind: str) -> bytes:
    """A safetensors file whose header says what is not so."""
    header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    data = b"\0" * 16
    if kind == "longer than the file":
        return struct.pack("<Q", 1 << 40) + b"{}"
    if kind == "beyond the end":
        header["w"]["data_offsets"] = [0, 1 << 40]
    if kind == "huge shape":
        header["w"]["shape"] = [1 << 20, 1 << 20]
    if kind == "overlapping":
        header["v"] = dict(header["w"])
    if kind == "negative":
        header["w"]["shape"] = [-2, -2]
    text = b"{" * 100_000 if kind == "endless" else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "kind",
    ["longer than the file", "beyond the end", "huge shape", "overlapping", "negative", "endless"],
)
def test_a_lying_header_is_one_message(attack, model, kind):
    folder = attack.folder / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(lying(kind))
    with pytest.raises(UserError, match="cannot be read"):
        list(Artefact.open(folder).weights.values())
    (model / "model.safetensors").write_bytes(lying(kind))
    with pytest.raises(UserError, match="cannot be read"):
        CausalLMSource(path=str(model)).load("cpu")


GLOBALS = "cycler.__init__.__globals__['os'].system('{shell}')"
TEMPLATES = (
    "{{{{ " + GLOBALS + " }}}}",
    "{{{{ self.__init__.__globals__ }}}}"
    + "{{{{ lipsum.__globals__['os'].popen('{shell}').read() }}}}",
    "{{% for c in ''.__class__.__base__.__subclasses__() %}}{{{{ c }}}}{{% endfor %}}",
    "{{{{ ''|attr('__class__')|attr('__mro__') }}}}{{{{ namespace.__init__.__globals__ }}}}",
    "{{% include '/etc/passwd' %}}",
    "{{{{ messages.clear() }}}}",
    "{{% for i in range(1000000000) %}}x{{% endfor %}}",
)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("marked", [False, True])
def test_a_chat_template_stays_in_its_sandbox(attack, template, marked):
    from ftcli.data.chat_templates.template import ChatTemplate
    from ftcli.data.rows import RowError

    tokenizer = CausalLMSource(path="asset:llama_mini").load_tokenizer()
    text = template.format(shell=attack.shell)
    mark = "{% generation %}a{% endgeneration %}" if marked else ""
    tokenizer.chat_template = text + mark + "{% for m in messages %}{{ m.content }}{% endfor %}"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(RowError, match="refused by the chat template"):
        ChatTemplate(tokenizer, "2026-01-01").render_conversation(talk)
    assert not attack.won


def test_the_templates_are_attacks(attack):
    """Without the sandbox the first of them wins."""
    from jinja2 import Environment

    Environment().from_string(TEMPLATES[0].format(shell=attack.shell)).render()
    assert attack.won
