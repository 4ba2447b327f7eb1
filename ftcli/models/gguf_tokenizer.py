"""The tokenizer of a GGUF file, which splits text as the file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.models.gguf_header import Header, read_header, refuse_unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Values of `tokenizer.ggml.pre` for single digits, then GPT-2's words (llama.cpp, src/llama-vocab.cpp).
#: transformers 5.24 splits these as GPT-2 does, so that blanks before a digit become other tokens.
DIGITS_FIRST = (
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
)  # fmt: skip
#: Values that llama.cpp too splits as GPT-2 does.
GPT2 = (
    "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-es", "jina-de",
    "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "gigachat", "a.x-4.0", "mellum",
    "modern-bert", "roberta-bpe", "exaone4",
)  # fmt: skip
#: Values with which a word that is a token stays whole, though no merges lead to it (`ignore_merges`).
WHOLE_WORDS = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "jina-v5-nano", "tekken",
)  # fmt: skip


def load_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a GGUF file.

    Raises:
        UserError: transformers cannot build it, or would split text otherwise than the file says.
    """
    from transformers import AutoTokenizer

    with refuse_unreadable(file):
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
    header = read_header(file)
    if header.splitting not in (None, *GPT2, *DIGITS_FIRST, *_list_known()):
        raise UserError(
            f"{file.name} has a tokenizer that splits text as {header.splitting or 'an unnamed one'!r}, "
            "which is not known here; other tokens would be learned than the model was trained on.",
            where="model.path",
            fix="model.tokenizer=hub id or FOLDER of the model before its conversion to GGUF",
        )
    return _correct(tokenizer, header)


def _list_known() -> tuple[str, ...]:
    """Return the values of `tokenizer.ggml.pre` whose way of splitting transformers has."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return ()
    return tuple(GGUF_PRE_TOKENIZER_SPLITS)


def _correct(tokenizer: Any, header: Header) -> Any:
    """Return the tokenizer without what transformers 5.24 gets wrong.

    It splits digits with the blanks before them, takes words of Llama 3 apart that are tokens, and adds
    GPT-2's `<|endoftext|>` to vocabularies without it, as an id that the model has no embedding for.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    known = [token for token in state["added_tokens"] if token["id"] < header.vocabulary]
    right = header.splitting not in (*DIGITS_FIRST, *WHOLE_WORDS)
    if right and len(known) == len(state["added_tokens"]):
        return tokenizer
    state["added_tokens"] = known
    if header.splitting in WHOLE_WORDS:
        state["model"]["ignore_merges"] = True
    if header.splitting in DIGITS_FIRST:
        steps = [{"type": "Digits", "individual_digits": True}, state["pre_tokenizer"]]
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **tokenizer.special_tokens_map,
    )
