"""`ftcli doctor`: whether this machine can train."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Environment"


def doctor(
    train: Annotated[bool, typer.Option(help="Train, cut off and resume a few real steps.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Versions, GPU, bf16, kernels, hub token, disk, and a real train, save and resume.

    Exit status 1 when something does not work.
    """
    from ftcli.cli.findings import show_finding
    from ftcli.core import errors
    from ftcli.core.console import emit
    from ftcli.planning.doctor import check_machine, train_and_resume

    all_findings = []
    for part in (check_machine, train_and_resume) if train else (check_machine,):
        for finding in part():
            all_findings.append(finding)
            if not as_json:
                show_finding(finding)
    bad = any(finding.status == "fail" for finding in all_findings)
    emit({"ok": not bad, "checks": [f.as_dict() for f in all_findings]}, as_json, lambda: None)
    return errors.FAILED if bad else errors.OK
