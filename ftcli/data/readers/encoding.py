"""Detect by its beginning whether a file is UTF-8 text, and otherwise how to convert it."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from ftcli.core.errors import UserError

BOM = codecs.BOM_UTF8
#: Longest first: the mark of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
PACKED = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\xfd7zXZ\x00": "packed with xz",
    b"BZh91AY&SY": "packed with bzip2",
}
LEAST = 16  # bytes that are needed to detect an encoding
MANY, FEW = 0.4, 0.02  # share of NULs among upper bytes, and of controls among lower ones


def refuse_other_encodings(head: bytes, path: Path) -> None:
    """Check that a file is not of another encoding or a packed file; UTF-8 text passes.

    Raises:
        UserError: the beginning is that of another encoding or of a packed file.
    """
    encoding = _detect_encoding(head)
    if encoding:
        file = shlex.quote(str(path))
        raise UserError(
            f"the file is {encoding} text, expected UTF-8.",
            where=f"{path}:1",
            fix=f"iconv -f {encoding} -t UTF-8 {file} > utf8-{shlex.quote(path.name)}",
        )
    if head.startswith(b"\x1f\x8b"):
        raise UserError(
            "the file is packed with gzip, which its name does not say.",
            where=str(path),
            fix=f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.gz')}",
        )
    if head.startswith(b"PAR1") and b"\0" in head:
        raise UserError(
            "the file is parquet, which its name does not say.",
            where=str(path),
            fix=f"mv {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix('.parquet')))}",
        )
    packed = next((what for magic, what in PACKED.items() if head.startswith(magic)), None)
    if packed:
        raise UserError(
            f"the file is {packed}.", where=str(path), fix="unpack it, or pack it with gzip (.gz)"
        )


def _detect_encoding(head: bytes) -> str | None:
    """Detect UTF-16 and UTF-32 by the byte order mark or the positions of NUL bytes; None for others."""
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if marked or len(head) < LEAST:
        return marked
    high, low = head[::2], head[1::2]
    if _mostly_nul(low, high):
        return "UTF-16LE"
    return "UTF-16BE" if _mostly_nul(high, low) else None


def _mostly_nul(high: bytes, low: bytes) -> bool:
    """Whether bytes could be the upper and lower bytes of UTF-16 text."""
    no_text = sum(low.count(byte) for byte in range(32) if byte not in b"\t\n\r")
    return high.count(0) > MANY * len(high) and no_text <= FEW * len(low)
