"""Errors that the user sees: one message that says what is wrong, where, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence

OK, FAILED, USER, OUT_OF_MEMORY, INTERRUPTED = 0, 1, 2, 3, 130


class UserError(Exception):
    """A mistake that the user can fix.

    Args:
        what: one sentence that names the problem.
        where: file, line, key or row at fault; None when the command line as a whole is at fault.
        fix: what to do about it, ideally a command that runs as it stands.
        code: exit status of the process (see the constants above).
    """

    def __init__(
        self, what: str, where: str | None = None, fix: str | None = None, code: int = USER
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.fix, self.code = what, where, fix, code

    def __str__(self) -> str:
        text = f"{self.where}  {self.what}" if self.where else self.what
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class Problems(UserError):
    """Several mistakes found in one pass, shown together so that all can be fixed at once."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))

    @classmethod
    def raise_if_any(cls, problems: Sequence[UserError]) -> None:
        """Raise a single problem as itself and several as one `Problems`; nothing for an empty list."""
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise cls(problems)


def missing_package(package: str, extra: str, needed_by: str) -> UserError:
    """Return the error for an optional package that is not installed, with the command that installs it."""
    return UserError(
        f"{needed_by} needs the package '{package}', which is not installed.",
        fix=f"pip install 'ftcli[{extra}]'",
    )
