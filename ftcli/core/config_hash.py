"""The hash of a run's configuration and of the code that it names."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ftcli.core import code


def config_hash(config: dict[str, Any], *stages: dict[str, Any]) -> str:
    """Return a hash of a resolved config, the code that it names and the libraries: 12 hex digits.

    Args:
        stages: the resolved configs of its stages; the classes that they name are part of the code.
    """
    chosen = {key: value for key, value in config.items() if key not in code.NOT_CHOICES}
    parts = [code.digest(code.roots_of(config, *stages)), code.libraries(), chosen]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
