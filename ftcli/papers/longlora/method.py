"""LoRA with embeddings and norms trained whole (LongLoRA, arXiv 2309.12307, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.base import model_name
from ftcli.methods.peft import Peft


class LongLora(Peft):
    """LoRA on attention, beside every parameter whose name contains one of some words.

    The paper calls it LoRA+ (which is not the method of that name with two learning rates). The output layer stays
    frozen also where it is tied to the embedding: what is trained is the input's copy.

    Args:
        config_class: peft.LoraConfig or a subclass of it.
        also_train: words; a parameter whose name contains one of them is trained whole.
    """

    formula = "r * sum(in + out) over the targets, plus the tensors that `also_train` names"

    def __init__(
        self,
        config_class: ClassPath = "peft.LoraConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        also_train: Sequence[str] = ("embed", "norm"),
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        self.also_train = tuple(also_train)

    def prepare(self, model: Any) -> nn.Module:
        """Freeze the model, add LoRA, and train the named modules whole.

        Raises:
            UserError: as `Peft.prepare`; or a word is in no parameter's name.
        """
        whole = {module for word in self.also_train for module in find_modules(model, word)}
        kept = self.options.get("modules_to_save") or ()
        self.options = {**self.options, "modules_to_save": sorted({*kept, *whole}) or None}
        return super().prepare(model)


def find_modules(model: nn.Module, word: str) -> list[str]:
    """Return the modules with a parameter of their own whose full name contains a word.

    Full names, as a suffix such as `norm` would be matched by PEFT in other modules too.

    Raises:
        UserError: there is none.
    """
    names = [name for name, _ in model.named_parameters() if word in name]
    if not names:
        raise UserError(
            f"'{word}' is in no name of a parameter of {model_name(model)} (an example of a name: "
            f"{next(name for name, _ in model.named_parameters())!r}).",
            where="method.also_train",
            fix="method.also_train=[]",
        )
    return sorted({name.rpartition(".")[0] for name in names})
