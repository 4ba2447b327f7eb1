"""Missing, gated and unreachable models, asked of a real HTTP server that answers as the hub does."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ftcli.errors import UserError
from ftcli.models import hub
from ftcli.models.causal_lm import CausalLM

ANSWERS = {
    "/meta-llama/gated": (401, {"X-Error-Code": "GatedRepo"}),
    "/owner/missing": (401, {"X-Error-Code": "RepoNotFound"}),
    "/owner/empty": (404, {"X-Error-Code": "EntryNotFound"}),
    "/owner/old": (404, {"X-Error-Code": "RevisionNotFound"}),
}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        found = [answer for path, answer in ANSWERS.items() if self.path.startswith(path)]
        status, headers = found[0] if found else (500, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def message(endpoint, tmp_path, monkeypatch):
    """A function that asks that hub, with an empty cache and no token, and gives its refusal."""
    from huggingface_hub import constants

    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def ask(path, revision=None):
        with pytest.raises(UserError) as caught:
            CausalLM(path, revision=revision).load("cpu")
        return str(caught.value)

    return ask


def test_a_gated_model_without_a_token(message):
    text = message("meta-llama/gated")
    assert text.startswith("model.path  meta-llama/gated is gated (401) and no token is set.")
    assert "hf auth login" in text and "model=llama_mini" in text and "model.path=FOLDER" in text


def test_a_gated_model_with_a_token(message, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_aaaa")
    assert "is gated (401) and the token has no access to it." in message("meta-llama/gated")


def test_a_model_that_is_not_there(message):
    text = message("owner/missing")
    assert "the hub has no model owner/missing (401) (or it is private: hf auth login)." in text


def test_a_revision_that_is_not_there(message):
    text = message("owner/old", "v9")
    assert text.startswith("model.revision  owner/old has no revision 'v9'.")


def test_no_network_is_found_out_at_once(message, monkeypatch):
    from huggingface_hub import constants

    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    started = time.monotonic()
    text = message("owner/name")
    assert "owner/name is not in the local cache and the hub cannot be reached" in text
    assert time.monotonic() - started < 2 * hub.SECONDS  # the library alone retries for 23 s


def test_offline_by_choice_asks_nobody(message, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message("meta-llama/gated")


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
        CausalLM(str(tmp_path)).load("cpu")


def test_the_cache_is_used_without_asking(tmp_path):
    asked = []

    def load(local):
        asked.append(local)
        return "model"

    assert hub.first("owner/name", None, load) == "model"
    assert asked == [True]
