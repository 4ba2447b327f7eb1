"""The shipped model is what its licence note says it is."""

from pathlib import Path

import ftcli

FOLDER = Path(ftcli.__file__).parent / "assets" / "models" / "llama_mini"


def test_llama_mini_loads_and_has_the_stated_parameters():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert sum(p.numel() for p in model.parameters()) == 6_951_168


def test_llama_mini_tokenizer_round_trips_and_pads():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = "Natalia sold 48 clips."
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.pad_token_id == 0
