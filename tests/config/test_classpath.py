import pytest
from peft import PeftConfig

from ftcli.config.classpath import fetch_subclass
from ftcli.core.errors import UserError

BROKEN = "raise ValueError('Inconsistent prefixes found')\n"
MISSING = "import a_package_that_is_absent\n"
ADAPTER = "from peft import PeftConfig\n\nclass Config(PeftConfig):\n    pass\n\n"


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (BROKEN, "ValueError: Inconsistent prefixes found"),
        (MISSING, "ModuleNotFoundError: No module named 'a_package_that_is_absent'"),
    ],
)
def test_an_error_while_the_module_is_imported_is_quoted(
    end, cause, tmp_path, monkeypatch, request
):
    name = f"adapter_{'broken' if end == BROKEN else 'missing'}"
    (tmp_path / f"{name}.py").write_text(ADAPTER + end)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FTCLI_TRUST", name)
    with pytest.raises(UserError) as caught:
        fetch_subclass(f"{name}.Config", PeftConfig, "method.config_class", "configuration of PEFT")
    assert caught.value.what == f"{name}.Config cannot be imported: {cause}"
    assert caught.value.fix == f"correct {name}"


def test_a_class_that_does_not_exist_and_a_package_that_is_missing_are_told_apart(monkeypatch):
    monkeypatch.setenv("FTCLI_TRUST", "galore_torch")
    with pytest.raises(UserError, match=r"there is no peft\.NoSuchConfig"):
        fetch_subclass("peft.NoSuchConfig", PeftConfig, "method.config_class", "configuration")
    with pytest.raises(ImportError):
        fetch_subclass(
            "galore_torch.GaLoreAdamW", PeftConfig, "optimizer.optimizer_class", "optimizer"
        )
