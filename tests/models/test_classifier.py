"""Classifiers: which heads are new, that every method trains them, and what runs write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.deltas.merge import merge_run
from ftcli.jobs.train import resume, train
from ftcli.methods.full import Full
from ftcli.methods.peft import Peft
from ftcli.models.classifier import ClassifierSource
from ftcli.models.heads import get_new_modules
from ftcli.run.build import open_run

SMALL = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
HEAD = ["classifier.bias", "classifier.weight"]


def source(path, **options) -> ClassifierSource:
    return ClassifierSource(str(path), **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A small ViT with a head for five classes, as transformers writes it."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    model = source("asset:vit_mini", labels=5, weights="random", config=SMALL).load()
    model.save_pretrained(folder)
    source("asset:vit_mini").load_tokenizer().save_pretrained(folder)
    return folder


def trained(model) -> list[str]:
    return sorted(n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "new"),
    [
        ({}, False),
        ({"labels": 5}, False),
        ({"labels": 3}, True),
        ({"labels": ["a", "b"]}, True),
        ({"head": "reset"}, True),
    ],
)
def test_a_head_for_other_classes_is_new(saved, options, new):
    chosen = source(saved, **options)
    model = chosen.load()
    assert get_new_modules(model) == (("classifier",) if new else ())
    assert get_new_modules(chosen.build_meta_model()) == get_new_modules(model)
    own = load_file(saved / "model.safetensors")
    kept = torch.equal(model.vit.layernorm.weight, own["vit.layernorm.weight"])
    assert kept and model.classifier.out_features == model.config.num_labels
    if "labels" not in options:
        assert torch.equal(model.classifier.weight, own["classifier.weight"]) != new


def test_a_new_head_is_drawn_from_the_seed(saved):
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(source(saved, labels=3).load().classifier.weight.detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert 0.05 < weights[0].std() < 0.2  # initializer_range is 0.1


def test_a_head_that_is_not_there_cannot_be_kept(saved):
    with pytest.raises(UserError, match="no head for 3 classes"):
        source(saved, labels=3, head="keep").load()
    with pytest.raises(UserError, match="no 'hidden'"):
        source(saved, config={"hidden": 3}).hf_config()


def test_every_method_trains_a_new_head_and_lora_leaves_a_kept_one(saved):
    probe = Full(train=[]).prepare(source(saved, labels=3).load())
    assert trained(probe) == HEAD
    lora = Peft(r=2).prepare(source(saved, labels=3).load())
    own = [n for n in trained(lora) if "lora" not in n]
    assert [n.rpartition(".modules_to_save.")[0][-10:] for n in own] == ["classifier"] * 2
    assert {n.rpartition(".")[2] for n in own} == {"weight", "bias"}
    kept = Peft(r=2).prepare(source(saved).load())
    assert not [n for n in trained(kept) if "lora" not in n]


def test_an_adapter_without_room_for_a_head_is_refused(saved):
    with pytest.raises(UserError, match="head of .* is new"):
        how = Peft(config_class="ftcli.papers.peqa.method.PeqaConfig")
        how.prepare(source(saved, labels=3).load())


def test_a_state_goes_into_another_model_with_its_head(saved):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        how = Peft(r=2)
        models.append(how.prepare(source(saved, labels=3).load()))
    tensors = {name: tensor.clone() for name, tensor in how.get_trained_tensors(models[0]).items()}
    assert sum("classifier" in name for name in tensors) == 2
    how.load_trained_tensors(models[1], tensors)
    assert all(torch.equal(t, how.get_trained_tensors(models[1])[n]) for n, t in tensors.items())
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
    assert torch.equal(*(m.eval()(**pixels).logits for m in models))


JOB = [
    "model.weights=pretrained", "model.labels=10", "data.limit=120", "data.test=null",
    "data.validation=0.2", "eval.accuracy.split=validation", "data.crop=2", "data.flip=true",
    "trainer.max_steps=6", "trainer.batch_size=8", "trainer.save_every=3", "trainer.log_every=1",
    "method=ssf", "optimizer.lr=1e-2",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(saved, tmp_path_factory) -> Path:
    places = [f"model.path={saved}", f"run.dir={tmp_path_factory.mktemp('runs')}"]
    composed = compose("bases/vit_fashion", [*JOB, *places])
    validate_and_convert(composed)
    return Path(train(composed)["run"])


def test_a_run_trains_scales_shifts_and_head_and_names_its_classes(run):
    adapted = open_run(run)
    names = trained(adapted.model)
    assert {n.split(".")[-2] for n in names} == {"ssf_scale", "ssf_shift", "default"}
    assert sum("modules_to_save" in n for n in names) == 2
    assert (run / "adapter" / "preprocessor_config.json").exists()
    assert "100 examples of 10 classes" in (run / "train.log").read_text()


def test_a_resumed_run_sees_the_same_augmented_images(run, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(run, cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints" / "step-000006")
    (cut / "checkpoints" / "last").unlink()
    (cut / "checkpoints" / "last").symlink_to("step-000003")
    shutil.rmtree(cut / "adapter")
    (cut / "result.json").unlink()
    resume(cut)
    whole, again = (load_file(p / "adapter" / "adapter_model.safetensors") for p in (run, cut))
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_merged_run_is_a_plain_model_of_the_base_class(run, tmp_path):
    report = merge_run(run, tmp_path / "m")
    assert report.max_difference <= report.tolerance
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "m")
    base = source("asset:vit_mini", labels=10, weights="random", config=SMALL).build_meta_model()
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (merged, base)]
    assert shapes[0] == shapes[1] and merged.config.id2label[0] == "Ankle boot"
    adapted = open_run(run)
    batch = adapted.data.prepare("validation", adapted.tokenizer).batch(range(8))
    with torch.no_grad():
        ours, theirs = (m.eval()(**batch["inputs"]).logits for m in (adapted.model, merged))
    assert (ours - theirs).abs().max() < 1e-5
    AutoImageProcessor.from_pretrained(tmp_path / "m", backend="pil")


def test_too_few_classes_are_said_before_the_first_step(saved, tmp_path):
    composed = compose("bases/vit_fashion", [*JOB, "model.labels=9", f"run.dir={tmp_path}"])
    composed.config["model"]["path"] = str(saved)
    with pytest.raises(UserError, match="10 classes and the model.s head has 9"):
        train(composed)
