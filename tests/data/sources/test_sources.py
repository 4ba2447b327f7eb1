"""Sources of rows: shipped sets, files, folders, globs, the hub; and errors where there is none."""

from __future__ import annotations

import pytest

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.data.sources import asset, find_source, hub, is_path


def prompts(source):
    return [row.values["prompt"] for row in source.rows()]


@pytest.fixture
def folder(tmp_path, write_rows):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation", "test"):
        write_rows([{"prompt": name}], f"{name}.jsonl")
    (tmp_path / "README.md").touch()
    return tmp_path


@pytest.mark.parametrize("name", asset.names())
def test_shipped_sets_have_rows_to_judge_on_and_a_licence(name):
    source = find_source(f"asset:{name}")
    held_out = "flags" if name == "emoji" else "test"
    assert next(iter(source.rows())).values
    assert next(iter(source.open_split(held_out).rows())).values
    assert source.describe()["licence"]


def test_an_unknown_shipped_set_lists_those_there_are():
    with pytest.raises(UserError, match="no data set 'e2f' ships") as caught:
        find_source("asset:e2f")
    assert "asset:e2e" in caught.value.fix


def test_a_folder_gives_its_split(folder):
    assert prompts(find_source(str(folder))) == ["train-00000-of-00002", "train-00001-of-00002"]
    assert prompts(find_source(str(folder), "test")) == ["test"]
    with pytest.raises(UserError, match="no split 'dev'"):
        find_source(str(folder), "dev")


def test_a_folder_without_a_train_file_never_trains_on_its_test(tmp_path, write_rows):
    for name in ("a", "b", "test"):
        write_rows([{"prompt": name}], f"{name}.jsonl")
    assert prompts(find_source(str(tmp_path))) == ["a", "b"]


def test_a_glob_gives_what_matches(folder):
    assert prompts(find_source(f"{folder}/*t*.jsonl")) == [
        "test", "train-00000-of-00002", "train-00001-of-00002", "validation",
    ]  # fmt: skip


def test_a_missing_file_suggests_the_nearest(tmp_path, write_rows):
    path = write_rows([], "train.jsonl")
    with pytest.raises(UserError, match="no such file") as caught:
        find_source(str(tmp_path / "trian.jsonl"))
    assert f"did you mean {path}?" in caught.value.fix


def test_a_folder_that_holds_nothing_readable_says_what_is(tmp_path):
    (tmp_path / "x.docx").touch()
    with pytest.raises(UserError, match="no data file of a known type"):
        find_source(str(tmp_path))


def test_content_changes_with_bytes_and_order_only(tmp_path, write_rows):
    content = find_source(str(write_rows([{"prompt": "a"}], "a.jsonl"))).content_hash
    assert find_source(str(write_rows([{"prompt": "a"}], "b.jsonl"))).content_hash == content
    assert find_source(str(write_rows([{"prompt": "b"}], "c.jsonl"))).content_hash != content


@pytest.mark.parametrize(
    ("text", "id_"),
    [("owner/name", True), ("squad", True), ("rows.jsonl", False), ("./owner/name", False),
     ("a/b/c", False), ("/owner", False), ("rows.csv.gz", False)],
)  # fmt: skip
def test_what_looks_like_a_hub_id(text, id_):
    assert hub.is_id(text) is id_


def test_what_names_a_place_and_what_a_split(tmp_path):
    assert is_path("asset:e2e:test") and is_path("x.jsonl") and is_path(str(tmp_path))
    assert not is_path("validation") and not is_path("test")


@pytest.fixture
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_hub_set_that_is_not_cached_is_one_message_without_network(
    offline, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="nor in the local cache, and the hub cannot be reached"
    ) as e:
        next(find_source("no-such/data-set").rows())
    assert e.value.where == "data.path" and "data=e2e" in e.value.fix


class Answer:
    """Stub of the hub's answer to a request."""

    sha = "abc123"


def test_a_hub_set_gives_its_rows(monkeypatch, tokenizer):
    import datasets
    from huggingface_hub import HfApi

    asked = {}

    def load(path, name, **options):
        asked.update(options, path=path, name=name)
        return datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}] * 3)

    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: Answer)
    monkeypatch.setattr(datasets, "load_dataset", load)
    data = Data("owner/set", name="main", split="train[:3]")
    assert len(data.prepare("train", tokenizer)) == 3
    assert data.prepare("train", tokenizer).origin(2) == "owner/set/train[:3][2]"
    assert asked == {"path": "owner/set", "name": "main", "split": "train[:3]", "revision": "abc123",
                     "streaming": False}  # fmt: skip
    assert data.describe(tokenizer)["commit"] == "abc123"


@pytest.mark.parametrize(
    ("raised", "message"),
    [("'owner/set' is a gated dataset on the Hub.", "is gated, and your token"),
     ('Unknown split "dev". Should be one of [train].', 'Unknown split "dev"'),
     ("BuilderConfig 'x' not found. Available: [main]", "BuilderConfig 'x' not found")],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_message(monkeypatch, raised, message):
    import datasets
    from huggingface_hub import HfApi

    def load(*_, **__):
        raise ValueError(raised)

    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: Answer)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=message):
        next(find_source("owner/set").rows())
