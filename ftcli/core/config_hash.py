"""The content address of a run: its configuration and the code that it names."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ftcli.core import code


def config_hash(config: dict[str, Any], *stages: dict[str, Any]) -> str:
    """Content address of a resolved config: of it, and of the code that it names (`ftcli.core.code`).

    Args:
        stages: the resolved configs of its stages, whose classes are part of that code.
    """
    chosen = {key: value for key, value in config.items() if key not in code.NOT_CHOICES}
    stated = [code.digest(code.roots_of(config, *stages)), code.libraries(), chosen]
    text = json.dumps(stated, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
