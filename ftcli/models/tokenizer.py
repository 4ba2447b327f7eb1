"""Requirements of a tokenizer before training: a padding token, a chat template, ids with embeddings."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ftcli.core.errors import UserError


def complete_tokenizer(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> PreTrainedTokenizerBase:
    """Set a padding token among the tokenizer's tokens, and the chat template if one is given.

    No token is added: the embeddings would have to grow with it. Labels are marked by position
    and never by token id, so an end of text that doubles as padding is still learned.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _find_padding(tokenizer)
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template)
    return tokenizer


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, name: str
) -> None:
    """Refuse a tokenizer whose ids reach beyond the embedding table.

    Raises:
        UserError: some tokens have no embedding.
    """
    rows = getattr(config.get_text_config(), "vocab_size", None)
    highest = max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and highest >= rows:
        raise UserError(
            f"the tokenizer has token ids up to {highest}, {name} has {rows} embeddings; the table "
            "is not resized.",
            where="model.tokenizer",
            fix="use the tokenizer the model was trained with (model.tokenizer=null)",
        )


def _find_padding(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a token reserved for padding, else the unknown token, else the end of text."""
    reserved = [token for token in tokenizer.get_added_vocab() if "pad" in token.lower()]
    token = next(iter(reserved), None) or tokenizer.unk_token or tokenizer.eos_token
    if token is None:
        raise UserError(
            "the tokenizer has no padding, unknown or end token.", where="model.tokenizer"
        )
    return str(token)


def _read_template(text: str) -> str:
    """Return the Jinja text itself, or the content of the file of that name."""
    if "{" in text:
        return text
    file = Path(text).expanduser()
    if not file.is_file():
        raise UserError(
            f"{text} is neither a Jinja template nor a file.", where="model.chat_template"
        )
    return file.read_text(encoding="utf-8")
