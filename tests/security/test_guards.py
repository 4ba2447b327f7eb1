"""Each guard is taken out of a copy of ftcli, and the tests that make the attack must fail there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parents[2]
CONFIGS, MODELS, DATA, SERVER, SHOWN, SECRETS = (
    f"tests/security/test_{name}.py"
    for name in ("configs", "models", "data", "server", "shown", "secrets")
)
#: What a copy that merely does not run ends with: no proof that anything was guarded.
BROKEN = ("SyntaxError", "NameError", "ImportError", "IndentationError", "UnboundLocalError")


class Guard(NamedTuple):
    """Lines of ftcli that stop an attack, what stands there without them, and who must notice."""

    file: str
    there: str
    gone: str
    tests: str  # a file of tests, or one test of it


NO_REMOTE_CODE = ("trust_remote_code=False", "trust_remote_code=True")
NO_REMOTE_OPTION = ('options["trust_remote_code"] = False', 'options["trust_remote_code"] = True')
CODE = f"{MODELS}::test_code_that_a_model_brings_is_not_run"
CLASSIFIER = f"{MODELS}::test_code_that_a_classifier_brings_is_not_run"
GUARDS = {
    # which classes a configuration may name
    "a class stands in a package that may be named": Guard(
        "config/classpath.py", "    if not is_allowed(path, packages):\n", "    if False:\n", CONFIGS),
    "what is fetched is a class": Guard(
        "config/classpath.py", "    if not inspect.isclass(component):\n", "    if False:\n", CONFIGS),
    "a class is defined where it is said to be": Guard(
        "config/classpath.py", '    if not _is_inside(f"{component.__module__}.{component.__qualname__}", packages):\n',
        "    if False:\n", CONFIGS),
    "the machinery of ftcli is no component": Guard(
        "config/classpath.py", 'COMPONENTS = tuple(f"ftcli.{folder}" for folder in COMPONENT_FOLDERS)',
        'COMPONENTS = ("ftcli",)', CONFIGS),
    "a class of a library is of the kind that is asked for": Guard(
        "config/classpath.py", "    if not (isinstance(component, type) and issubclass(component, kind)):\n",
        "    if False:\n", CONFIGS),
    "the command looks before it imports": Guard(
        "config/validation.py", "        other = classpath.explain_disallowed_class(target, packages)\n",
        "        other = None\n", CONFIGS),
    "options are those that the class takes": Guard(
        "config/building.py", "    _check_options(component, options, key or target, where)\n", "", CONFIGS),
    # what else a configuration may say
    "the search path takes folders": Guard(
        "config/primary_config.py", 'if not isinstance(entry, str) or "://" in entry and not entry.startswith("file://"):',
        "if False:", CONFIGS),
    "a secret of the environment is not read": Guard(
        "config/composition.py", "if is_secret_variable(str(name)):", "if False:", CONFIGS),
    "a name is no path": Guard(
        "config/checks.py", "if name is not None and not is_plain_name(str(name)):", "if False:", CONFIGS),
    "shell lines are typed by the user": Guard(
        "sweeps/composition.py", 'and node.get(name) and not ours:', "and False:", CONFIGS),
    "options of sbatch hold no line break": Guard(
        "sweeps/composition.py", "if isinstance(value, str) and not value.isprintable():", "if False:", CONFIGS),
    "children do not look into the working folder": Guard(
        "cli/app.py", 'os.environ.setdefault("PYTHONSAFEPATH", "1")', "pass", CONFIGS),
    # models, adapters, checkpoints
    "a checkpoint is read as weights only": Guard(
        "trainer/checkpoint_io.py", "weights_only=True", "weights_only=False", MODELS),
    "weights of a model are safetensors": Guard(
        "models/causal_lm.py", "use_safetensors=True", "use_safetensors=None", MODELS),
    "code of a causal model": Guard("models/causal_lm.py", *NO_REMOTE_CODE, CODE),
    "code of a configuration": Guard("models/hub.py", *NO_REMOTE_CODE, CODE),
    "code of a classifier": Guard("models/classifier.py", *NO_REMOTE_CODE, CLASSIFIER),
    "code of a processor": Guard("models/classifier.py", *NO_REMOTE_OPTION, CLASSIFIER),
    "code of a diffusion model's tokenizer": Guard("models/ldm.py", *NO_REMOTE_OPTION, MODELS),
    "code of a delta's model": Guard("deltas/artefact.py", *NO_REMOTE_CODE, MODELS),
    # data
    "an archive does not swell": Guard(
        "data/media/sources.py", "if entry.file_size > MAX_UNPACKED and", "if False and", DATA),
    "arrays hold no objects": Guard(
        "data/media/sources.py", "allow_pickle=False", "allow_pickle=True", DATA),
    # the page
    "the page listens on this machine": Guard(
        "serving/web.py", 'LOOPBACK = "127.0.0.1"', 'LOOPBACK = "0.0.0.0"', SERVER),
    "the page is not shared": Guard("serving/web.py", "share=False", "share=True", SERVER),
    "the page asks for the token": Guard(
        "serving/web.py", "auth=make_login_check(token) if token else None", "auth=None", SERVER),
    "a prompt has a length": Guard(
        "serving/web.py", '    if len(message) + sum(len(turn["content"]) for turn in previous) > MAX_CHARACTERS:\n',
        "    if False:\n", SERVER),
    "one answer at a time": Guard(
        "serving/web.py", "default_concurrency_limit=1", "default_concurrency_limit=None", SERVER),
    "a body has a length": Guard(
        "serving/limits.py", "int(v) > self.largest for v", "False for v", SERVER),
    "a body is counted as it comes": Guard(
        "serving/limits.py", "if seen > self.largest:", "if False:", SERVER),
    # where text is read
    "terminals get no control characters": Guard(
        "core/escaping.py", "return text.translate(_CONTROLS)", "return text", SHOWN),
    "JSON for a terminal holds none": Guard(
        "core/escaping.py", "return text.translate(_IN_JSON)", "return text", SHOWN),
    "reports hold no markup": Guard(
        "core/escaping.py", 'return text.replace("<", "&lt;").replace("![", "!\\\\[")', "return text", SHOWN),
    "a report as HTML is escaped": Guard(
        "reproduce/report.py", "from html import escape", "escape = str", SHOWN),
    # secrets
    "values of the environment are hidden": Guard(
        "core/redaction.py", "    for value in _find_environment_secrets():\n", "    for value in ():\n", SECRETS),
    "what stands behind a name is hidden": Guard(
        "core/redaction.py", "    return _ASSIGNMENT.sub(lambda m: m[1] + (m[2] if _is_plain(m[2]) else HIDDEN), text)",
        "    return text", SECRETS),
    "what stands under a key is hidden": Guard(
        "core/redaction.py", "    if is_secret(name) and not _is_plain(value):\n", "    if False:\n", SECRETS),
    "what has the shape of a secret is hidden": Guard(
        "core/redaction.py", "    return _SHAPE.sub(HIDDEN, text)", "    return text", SECRETS),
    "the log is redacted": Guard("core/run_dir.py", "{redact(line)}", "{line}", SECRETS),
    "checkpoints are redacted": Guard(
        "trainer/checkpoint_io.py", "redact_tree(run.config)", "run.config", SECRETS),
    "the configuration of a run is redacted": Guard(
        "run/record.py", "OmegaConf.create(redact_tree(value))", "OmegaConf.create(value)", SECRETS),
    "words of the command line are redacted": Guard(
        "run/record.py", "*map(redact_word, sys.argv[1:])", "*sys.argv[1:]", SECRETS),
    "overrides are redacted": Guard(
        "run/record.py", "redact_word(word) for word in", "word for word in", SECRETS),
    "variables of a run are redacted": Guard(
        "run/record.py", '    return redact("\\n".join(lines)) + "\\n"', '    return "\\n".join(lines) + "\\n"',
        SECRETS),
    "messages are redacted": Guard(
        "config/display.py", "return escape_controls(redact(text))", "return escape_controls(text)", SECRETS),
}  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package and its tests, to be broken; what is large is linked."""
    folder = tmp_path_factory.mktemp("guards")
    for name in ("ftcli", "tests"):
        shutil.copytree(
            HERE / name, folder / name, ignore=shutil.ignore_patterns("assets", "*.pyc")
        )
    (folder / "ftcli" / "assets").symlink_to(HERE / "ftcli" / "assets")
    for name in ("configs", "recipes", "pyproject.toml"):
        (folder / name).symlink_to(HERE / name)
    return folder


def judged(copy: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy, on the copy."""
    words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("tests", [CONFIGS, MODELS, DATA, SERVER, SHOWN, SECRETS])
def test_the_copy_passes_with_its_guards(copy, tests):
    done = judged(copy, tests)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", GUARDS)
def test_the_table_names_lines_and_tests_that_exist(name):
    guard = GUARDS[name]
    assert guard.there in (HERE / "ftcli" / guard.file).read_text(), "fix the table of this test"
    file, _, test = guard.tests.partition("::")
    assert f"def {test}" in (HERE / file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", GUARDS)
def test_without_the_guard_the_attack_is_noticed(copy, name):
    guard = GUARDS[name]
    file = copy / "ftcli" / guard.file
    whole = file.read_text()
    try:
        file.write_text(whole.replace(guard.there, guard.gone))
        done = judged(copy, guard.tests)
    finally:
        file.write_text(whole)
    assert done.returncode == 1, done.stdout[-3000:]
    assert not any(f"{error}: " in done.stdout for error in BROKEN), done.stdout[-3000:]
