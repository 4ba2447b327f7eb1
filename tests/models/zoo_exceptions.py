"""What the rules of the zoo cannot know about one type, each with its reason."""

from __future__ import annotations

from typing import Any

#: Keys of the configuration that a type needs beside the rules.
EXCEPTIONS: dict[str, dict[str, Any]] = {}

#: Types that cannot stand alone as a small causal language model, and why.
NOT_BUILT: dict[str, str] = {}
