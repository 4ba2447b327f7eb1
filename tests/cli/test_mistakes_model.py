"""Mistakes 4, 8 and 9: targets that match nothing, models the hub does not give, full on nf4.

The hub is a real HTTP server on this machine that answers as the hub does.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

JOB = "qlora_mini"
ANSWERS = {
    "/meta-llama/gated": (401, {"X-Error-Code": "GatedRepo"}),
    "/owner/missing": (401, {"X-Error-Code": "RepoNotFound"}),
    "/owner/old": (404, {"X-Error-Code": "RevisionNotFound"}),
}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        answers = [answer for path, answer in ANSWERS.items() if self.path.startswith(path)]
        status, headers = answers[0] if answers else (500, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def refused(ftcli, tmp_path, monkeypatch):
    """A function that trains with the overrides and gives what stands on stderr, with status 2."""
    monkeypatch.setenv("FTCLI_QUIET", "1")

    def call(*overrides):
        ended = ftcli("train", JOB, *overrides, f"data.cache_dir={tmp_path / 'tokens'}")
        assert ended.status == 2, ended.err
        assert "Traceback" not in ended.err
        return ended.err

    return call


@pytest.fixture
def of_hub(refused, endpoint, tmp_path, monkeypatch):
    """The same for a model of that hub, with an empty cache and no token."""
    from huggingface_hub import constants

    def call(path, *overrides, at=endpoint):
        template = at + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        return refused(f"model.path={path}", *overrides)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return call


def test_4_targets_that_match_nothing(refused):
    text = refused("method.target_modules=[q_porj,v_proj]")
    assert (
        "command line  method.target_modules: 'q_porj' matches 0 of 56 linear layers of llama_mini "
        "('q_proj' would match 8).\n→ method.target_modules=[q_proj,v_proj]; "
        "method.targets_strict=false allows it\n"
    ) in text


def test_8_a_gated_model_without_a_token(of_hub):
    text = of_hub("meta-llama/gated")
    assert "command line  model.path: meta-llama/gated is gated (401) and no token is set." in text
    assert "hf auth login" in text and "model=llama_mini" in text and "model.path=FOLDER" in text


def test_8_a_gated_model_with_a_token(of_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_aaaa")
    assert "is gated (401) and the token has no access to it." in of_hub("meta-llama/gated")


def test_8_a_model_that_is_not_there(of_hub):
    text = of_hub("owner/missing")
    assert "the hub has no model owner/missing (401) (or it is private: hf auth login)." in text


def test_8_a_revision_that_is_not_there(of_hub):
    text = of_hub("owner/old", "model.revision=v9")
    assert "command line  model.revision: owner/old has no revision 'v9'." in text


def test_8_no_network_is_found_out_at_once(of_hub):
    from ftcli.models import hub

    started = time.monotonic()
    text = of_hub("owner/name", at="http://127.0.0.1:9")
    assert "owner/name is not in the local cache and the hub cannot be reached" in text
    # the library alone retries for 23 s
    assert time.monotonic() - started < 3 * hub.SECONDS


def test_8_offline_by_choice_asks_nobody(of_hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in of_hub("meta-llama/gated")


def test_8_a_path_that_is_neither_folder_nor_hub_id(refused):
    assert "command line  model.path: ./nowhere is neither a folder nor a hub id" in refused(
        "model.path=./nowhere"
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=full"], "quantised weights cannot be"),
        (["method=loha"], "PEFT has no quantised layer for it"),
        (["method=pissa"], "it takes a part out of the base's weights"),
        (["method=prompt_tuning", "data.packing=flat"], "a packed row holds several documents"),
    ],
)
def test_9_methods_that_contradict_the_rest(refused, overrides, words):
    text = refused(*overrides)
    assert words in text and "→" in text
