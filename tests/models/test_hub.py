"""Sources of a model's files: shipped, a folder, the cache; and paths that are none of them."""

import pytest

from ftcli.core.errors import UserError
from ftcli.models import hub
from ftcli.models.causal_lm import CausalLMSource


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("asset:llama_maxi", "no such model ships"),
        ("./nowhere", "neither a folder nor a hub id"),
        ("/nowhere/at/all", "neither a folder nor a hub id"),
        ("llama", "neither a folder nor a hub id"),
    ],
)
def test_what_is_no_model_at_all(path, words):
    with pytest.raises(UserError, match=words) as caught:
        hub.resolve(path)
    assert caught.value.where == "model.path" and "llama_mini" in caught.value.fix


def test_a_folder_without_a_model_says_what_it_lacks(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        CausalLMSource(str(tmp_path)).load("cpu")


def test_the_cache_is_used_without_asking(tmp_path):
    asked = []

    def load(local):
        asked.append(local)
        return "model"

    assert hub.load_cached_first("owner/name", None, load) == "model"
    assert asked == [True]
