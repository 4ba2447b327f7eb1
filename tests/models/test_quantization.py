"""The NF4 code, its error, and 4-bit layers that stay trainable after an evaluation (QLoRA card)."""

import hashlib

import bitsandbytes.functional as bnb
import pytest
import torch
from bitsandbytes.nn import Linear4bit

from ftcli.core.errors import UserError
from ftcli.methods.peft import Peft
from ftcli.models.bits import measure_model_bits
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.quantization import build_bitsandbytes_config, disable_cpu_inference_path

#: arXiv 2305.14314, appendix E.
NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
IDS = torch.arange(3, 43)[None]


def quantised(tensor, **options):
    packed, state = bnb.quantize_4bit(tensor, blocksize=64, quant_type="nf4", **options)
    return bnb.dequantize_4bit(packed, state).view(tensor.shape)


def test_the_sixteen_values_are_the_papers_and_follow_from_the_normal_quantiles():
    code = bnb.get_4bit_type("nf4", device="cpu").double()
    assert (code - torch.tensor(NF4).double()).abs().max() < 1e-6
    offset = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))

    def quantiles(n):
        share = torch.linspace(offset, 0.5, n, dtype=torch.float64)[:-1]
        return torch.special.ndtri(share)

    values = torch.cat([quantiles(9), torch.zeros(1, dtype=torch.float64), -quantiles(8)]).sort()[0]
    assert (code - values / values.max()).abs().max() < 1e-6


def test_code_values_times_the_absmax_survive_exactly():
    scales = torch.tensor([0.5, 2.0, 3.75, 1e-3]).repeat_interleave(64)
    values = bnb.get_4bit_type("nf4", device="cpu").repeat(16) * scales
    assert torch.equal(quantised(values), values)


@pytest.mark.parametrize("double_quant", [False, True])
def test_relative_error_on_normal_weights(double_quant):
    torch.manual_seed(0)
    weights = torch.randn(1024, 1024)
    error = (quantised(weights, compress_statistics=double_quant) - weights).norm() / weights.norm()
    assert error.item() == pytest.approx(0.092, abs=0.001)


def test_bits_of_the_shipped_model_under_qlora():
    """4.127 bits and the tables of constant size, which count in layers this small."""
    assert measure_model_bits(
        CausalLMSource("asset:llama_mini", quantization="nf4").load("cpu")
    ) == (pytest.approx(4.127, abs=0.1))


def test_no_quantisation_asks_for_none():
    assert build_bitsandbytes_config("none", True, torch.float32) is None
    assert build_bitsandbytes_config("int8", True, torch.float32).load_in_8bit


def adapted(guarded: bool = True):
    """Llama in nf4 with LoRA, dropout-free, B set off zero so that every factor has a gradient."""
    model = CausalLMSource("asset:llama_mini", quantization="nf4").load("cpu")
    if not guarded:
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = Linear4bit(64, 64).support_avx512bf16_for_cpu
    torch.manual_seed(0)
    model = Peft(r=4, init_lora_weights=False).prepare(model)
    return model


def gradients(model) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad(set_to_none=True)
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def look(model) -> None:
    model.eval()
    with torch.no_grad():
        model(input_ids=IDS)


def test_gradients_are_bit_identical_before_and_after_an_evaluation():
    model = adapted()
    before = gradients(model)
    look(model)
    after = gradients(model)
    assert before.keys() == after.keys() and len(before) == 112
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(
    not Linear4bit(64, 64).support_avx512bf16_for_cpu, reason="the CPU has no AVX512-BF16"
)
def test_without_the_guard_an_evaluation_changes_the_gradients():
    model = adapted(guarded=False)
    before = gradients(model)
    try:
        look(model)
        after = gradients(model)
    except (AssertionError, RuntimeError):
        return  # the path refuses the sizes of this model, which is the same defect
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_the_guard_reaches_every_four_bit_layer():
    layers = torch.nn.Sequential(Linear4bit(64, 64), torch.nn.Sequential(Linear4bit(64, 64)))
    for layer in layers.modules():
        layer.support_avx512bf16_for_cpu = True
    disable_cpu_inference_path(layers)
    assert not layers[0].support_avx512bf16_for_cpu
    assert not layers[1][0].support_avx512bf16_for_cpu


def digest(model) -> str:
    packed = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            packed.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return packed.hexdigest()


def test_training_leaves_every_byte_of_the_base_as_it_was():
    model = adapted()
    before = digest(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        model.train()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        look(model)
    assert losses[-1] < losses[0]
    assert digest(model) == before
    assert sum(p.dtype == torch.uint8 for p in model.parameters()) == 56


def test_step_zero_is_the_quantised_base():
    base = CausalLMSource("asset:llama_mini", quantization="nf4").load("cpu")
    with torch.no_grad():
        expected = base(input_ids=IDS).logits
        adapted_ = Peft(r=4).prepare(base).eval()
        assert torch.equal(adapted_(input_ids=IDS).logits, expected)


STORED = {
    "gptq": ({"bits": 4, "group_size": 128, "desc_act": False, "sym": True}, "pip install optimum"),
    "awq": ({"bits": 4, "group_size": 128, "zero_point": True}, "pip install gptqmodel"),
    "compressed-tensors": (
        {"config_groups": {}, "format": "pack-quantized"},
        "pip install 'compressed-tensors>=0.15.0'",
    ),
    "hqq": ({"quant_config": {}}, "pip install hqq"),
    "torchao": (
        {"quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
        "pip install torchao",
    ),
    "quanto": ({"weights": "int8"}, "pip install optimum-quanto"),
}

#: By which the quantisers of transformers ask for the package that a method needs first.
QUESTIONS = {
    "gptq": "gptq.is_optimum_available",
    "awq": "awq.is_gptqmodel_available",
    "compressed-tensors": "compressed_tensors.is_compressed_tensors_available",
    "hqq": "hqq.is_hqq_available",
    "torchao": "torchao.is_torchao_available",
    "quanto": "quanto.is_optimum_quanto_available",
}


@pytest.mark.parametrize("verb", ["check", "train"])
@pytest.mark.parametrize("stored", STORED)
def test_what_a_checkpoint_quantised_on_disk_lacks_is_known_beforehand(
    work, capsys, monkeypatch, stored, verb
):
    """The packages are hidden where they are installed, and the weights cannot be read."""
    from ftcli.cli.app import run

    monkeypatch.setattr(f"transformers.quantizers.quantizer_{QUESTIONS[stored]}", lambda: False)
    folder = _stored(work / "model", stored, STORED[stored][0])
    (folder / "model.safetensors").write_bytes(b"")
    status = run([verb, "qlora_mini", f"model.path={folder}", "method=lora",
                  "model.quantization=none", "data.limit=32", "~eval"])  # fmt: skip
    output = " ".join("".join(capsys.readouterr()).split())
    assert status == 2 and f"stored quantised ({stored})" in output
    assert STORED[stored][1] in output and "report" not in output


def _stored(folder, method, values):
    import json
    import shutil

    from ftcli.models.hub import resolve

    shutil.copytree(resolve("asset:llama_mini"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, **values}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_stored_weights_are_not_quantised_once_more(tmp_path):
    folder = _stored(tmp_path / "model", "gptq", STORED["gptq"][0])
    with pytest.raises(UserError, match="cannot be quantised once more"):
        CausalLMSource(str(folder), quantization="nf4").load("cpu")


def test_full_tuning_of_stored_weights_is_told_something_true(work, capsys, tmp_path):
    from ftcli.cli.app import run

    CausalLMSource("asset:llama_mini", quantization="nf4").load("cpu").save_pretrained(
        tmp_path / "four"
    )
    CausalLMSource("asset:llama_mini").load_tokenizer().save_pretrained(tmp_path / "four")
    job = ["qlora_mini", f"model.path={tmp_path / 'four'}", "method=full",
           "model.quantization=none", "data.limit=32", "~eval"]  # fmt: skip
    for verb in ("check", "train"):
        assert run([verb, *job]) == 2
        output = " ".join("".join(capsys.readouterr()).split())
        assert "model.path=the checkpoint before it was quantised (bitsandbytes)" in output
        assert "model.quantization=none, or" not in output
