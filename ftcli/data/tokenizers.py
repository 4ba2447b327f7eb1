"""What a tokenizer makes of text, as a hash."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_known: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of vocabulary, rules and special tokens; the chat template is not part of it."""
    vocabulary = _known.get(tokenizer)
    if vocabulary is None:
        vocabulary = hashlib.blake2b(_rules(tokenizer).encode(), digest_size=16).hexdigest()
        _known[tokenizer] = vocabulary
    special = json.dumps([tokenizer.bos_token_id, tokenizer.eos_token_id])
    return hashlib.blake2b((vocabulary + special).encode(), digest_size=16).hexdigest()


def _rules(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation, which stand before the added tokens, change with every call.
        return str(backend.to_str()).partition('"added_tokens"')[2]
    vocabulary = sorted(tokenizer.get_vocab().items())
    return json.dumps([type(tokenizer).__name__, vocabulary], default=str)
