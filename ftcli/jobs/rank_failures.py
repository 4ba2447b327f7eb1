"""Errors of ranks: written by a rank, read by its parent from torchrun's error file, and the choice of the one shown."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ftcli.core.errors import FAILED, Problems, UserError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set by torchrun for each rank


def tell_parent(error: UserError) -> NoReturn:
    """Write an error to torchrun's file for it, and exit with its code."""
    what = str(error) if isinstance(error, Problems) else error.what
    fields = {"what": what, "where": error.where, "fix": error.fix, "code": error.code}
    content = {"message": json.dumps(fields), "timestamp": int(time.time())}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps(content), encoding="utf-8")
    sys.exit(error.code)


def find_cause(failures: dict[int, ProcessFailure]) -> UserError:
    """Return the error of the rank that failed first; the others fail because they lose its connection.

    A rank's own message (a mistake of the user, exhausted memory, a loss that is not finite) comes before a signal from outside, and
    that before any other error.
    """
    told = {rank: _read_message(failure) for rank, failure in failures.items()}
    own = [error for error in told.values() if error.code != FAILED or error.fix]
    if own:
        return own[0]
    killed = [r for r, f in failures.items() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
    rank = min(killed or failures, key=lambda rank: (failures[rank].timestamp, rank))
    if killed:
        name = signal.Signals(-failures[rank].exitcode).name
        memory = ", as by a system whose memory ran out" if name == "SIGKILL" else ""
        return UserError(f"rank {rank} was ended by {name}{memory}; all stopped.", code=FAILED)
    return UserError(f"rank {rank} failed: {told[rank].what}", code=FAILED)


def _read_message(failure: ProcessFailure) -> UserError:
    try:
        fields = json.loads(failure.message)
        return UserError(fields["what"], fields["where"], fields["fix"], fields["code"])
    except (ValueError, TypeError, KeyError):  # ended without a word
        return UserError(f"it ended with status {failure.exitcode}.", code=FAILED)
