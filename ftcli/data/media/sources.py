"""Sources of labelled images and sounds: class folders, a zip of them, arrays, a table of paths."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ftcli.core.errors import UserError
from ftcli.data.media.items import Item, normalize_split, parse_name
from ftcli.data.rows import RawRow
from ftcli.data.sources import hub

ASSETS = Path(__file__).parents[2] / "assets" / "media"
PREFIX = "asset:"
#: Limits of the unpacked size of a file in an archive: bytes, and multiple of its packed size. Images
#: and sounds are compressed already.
MAX_UNPACKED, MAX_RATIO = 1 << 26, 20


class Source:
    """The items of one path.

    Args:
        path: a folder of class folders, a zip of such, an .npz, a .jsonl with a column `path`,
            asset:NAME for a set that ships, or a hub id.
        suffixes: endings of the files that are read.
        label: array or column with the class; null: `labels` of arrays, `label` of a table.
        group: array or column with the group; null: none.
        pattern: see `ftcli.data.media.items.parse_name`.
        array: which array of an .npz, or column of a hub's data set, holds the examples; null: the
            only one of two or more axes, the first of images or sounds.
        splits: splits that are read from a hub.

    Raises:
        UserError: the path does not exist, or is of no known kind.
    """

    def __init__(
        self,
        path: str,
        suffixes: tuple[str, ...],
        label: str | None = None,
        group: str | None = None,
        pattern: str | None = None,
        array: str | None = None,
        splits: Sequence[str] = ("train",),
    ) -> None:
        self.path, self.suffixes, self.array = path, suffixes, array
        self.label, self.group, self.pattern = label, group, pattern
        self.splits = splits
        self.hub = "/" in path and hub.is_id(path) and not Path(path).exists()
        self.place = Path(path) if self.hub else _find_place(path)
        if pattern is not None and "label" not in _compile_pattern(pattern):
            raise UserError(
                f"{pattern!r} has no group called label.",
                where="data.pattern",
                fix=r"""such as "data.pattern='(?P<label>\d)_(?P<group>[a-z]+)_'" """.strip(),
            )
        self.items = list(self._items())
        if not self.items:
            raise UserError(
                f"{path} holds no labelled example.",
                where="data.path",
                fix=f"a folder or zip of class folders with {', '.join(suffixes)}, an .npz with "
                "labels, or a .jsonl with the columns path and label",
            )

    @property
    def licence(self) -> str | None:
        """Licence that a LICENSE.md beside the files or the hub names."""
        if self.hub:
            return hub.Hub(self.path, self.splits[0]).dataset.info.license or None
        from ftcli.data.sources.files import read_licence

        return read_licence(self.place if self.place.is_dir() else self.place.parent)

    def _items(self) -> Iterator[Item]:
        kinds = {".npz": self._read_arrays, ".zip": self._read_zip}
        if self.hub:
            from ftcli.data.media.hub import read_items

            return read_items(self.path, self.splits, self.array, self.label, self.group)
        if self.place.is_dir():
            return self._read_folder()
        if re.search(r"\.jsonl(\.gz)?$", self.place.name):
            return self._read_table()
        if self.place.suffix in kinds:
            return kinds[self.place.suffix]()
        raise UserError(
            f"{self.path} is neither a folder nor a .zip, .npz or .jsonl file.", where="data.path"
        )

    def _read_folder(self) -> Iterator[Item]:
        for file in sorted(self.place.rglob("*")):
            if file.suffix.lower() in self.suffixes and file.is_file():
                labels = parse_name(str(file.relative_to(self.place)), self.pattern)
                if labels is not None:
                    digest = _hash_content(file.read_bytes())
                    yield Item(file.read_bytes, labels.label, str(file), digest, *labels[1:])

    def _read_zip(self) -> Iterator[Item]:
        try:
            archive = zipfile.ZipFile(self.place)
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.path} is not a zip file.", where="data.path") from error
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            name = entry.filename
            if not name.lower().endswith(self.suffixes):
                continue
            if entry.file_size > MAX_UNPACKED and entry.file_size > MAX_RATIO * entry.compress_size:
                raise UserError(
                    f"{name} in it unpacks from {entry.compress_size:,} to {entry.file_size:,} bytes.",
                    where=str(self.place),
                    fix="images and sounds do not compress so far: leave the file out of the archive",
                )
            labels = parse_name(name, self.pattern)
            if labels is not None:
                digest = f"{entry.CRC:08x}{entry.file_size:x}"
                where = f"{self.place}:{name}"
                yield Item(partial(archive.read, name), labels.label, where, digest, *labels[1:])

    def _read_table(self) -> Iterator[Item]:
        from ftcli.data.readers import read

        for row in read(self.place):
            if isinstance(row, UserError):
                raise row
            yield self._make_item(row)

    def _make_item(self, row: RawRow) -> Item:
        label = self.label or "label"
        for column in ("path", label, *([self.group] if self.group else [])):
            if column not in row.values:
                raise UserError(
                    f"there is no column {column!r}; it has {', '.join(row.values)}.",
                    where=row.origin,
                    fix="data.label=COLUMN and data.group=COLUMN; files are named in `path`",
                )
        file = self.place.parent / str(row.values["path"])
        if not file.is_file():
            raise UserError(f"{file}: no such file.", where=row.origin)
        split = row.values.get("split")
        return Item(
            file.read_bytes,
            str(row.values[label]),
            f"{row.origin} ({file.name})",
            _hash_content(file.read_bytes()),
            str(row.values[self.group]) if self.group else "",
            normalize_split(str(split)) if split is not None else None,
        )

    def _read_arrays(self) -> Iterator[Item]:
        try:
            archive = np.load(self.place, allow_pickle=False)
            arrays: dict[str, Any] = {key: archive[key] for key in archive.files}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} cannot be read: {error}", where="data.path") from error
        key = self.array or self._find_examples(arrays)
        examples = self._find_array(arrays, key, "data.array")
        label = self.label or "labels"
        labels = _name_classes(self._find_array(arrays, label, "data.label"), arrays, label)
        groups = self._find_array(arrays, self.group, "data.group") if self.group else None
        splits = arrays.get("split")
        rate = int(arrays["sample_rate"]) if "sample_rate" in arrays else None
        for row in range(len(examples)):
            yield Item(
                partial(examples.__getitem__, row),
                labels[row],
                f"{self.place}:{key}[{row}]",
                _hash_content(examples[row].tobytes()),
                "" if groups is None else str(groups[row]),
                None if splits is None else _parse_split(splits[row]),
                rate,
            )

    def _find_examples(self, arrays: dict[str, Any]) -> str:
        wide = [key for key, value in arrays.items() if value.ndim > 1]
        if len(wide) != 1:
            raise UserError(
                f"{self.path} has {len(wide)} arrays that may be the examples.",
                where="data.array",
                fix=f"one of {', '.join(wide or arrays)}",
            )
        return wide[0]

    def _find_array(self, arrays: dict[str, Any], key: str, option: str) -> Any:
        rows = max(len(a) for a in arrays.values() if a.ndim)
        fitting = [name for name, a in arrays.items() if a.ndim and len(a) == rows]
        if key not in fitting:
            raise UserError(
                f"{self.path} has no array {key!r} with one entry an example.",
                where=option,
                fix=f"one of {', '.join(fitting)}",
            )
        return arrays[key]


def list_shipped() -> list[str]:
    """Names of the data sets that ship with ftcli."""
    return sorted(folder.name for folder in ASSETS.iterdir() if folder.is_dir())


def _find_place(path: str) -> Path:
    if not path.startswith(PREFIX):
        place = Path(path).expanduser()
        if not place.exists():
            raise UserError(f"{path}: no such file or folder.", "data.path", "check the path")
        return place
    name = path.removeprefix(PREFIX)
    if name not in list_shipped():
        known = ", ".join(PREFIX + known for known in list_shipped())
        raise UserError(f"no such set {name!r} ships with ftcli.", "data.path", f"one of {known}")
    folder = ASSETS / name
    files = [file for file in folder.iterdir() if file.suffix in (".npz", ".zip")]
    return files[0] if files else folder


def _name_classes(values: Any, arrays: dict[str, Any], label: str) -> list[str]:
    """Return the class of each row; numbers are looked up in `<label>_names` or `class_names`."""
    names = arrays.get(f"{label}_names", arrays.get("class_names") if label == "labels" else None)
    if names is None or values.dtype.kind not in "iu":
        return [str(value) for value in values]
    return [str(names[value]) for value in values]


def _parse_split(value: Any) -> str:
    """Return a split's name; 0, 1 and 2 are train, test and validation."""
    return {"0": "train", "1": "test", "2": "validation"}.get(
        str(value), normalize_split(str(value))
    )


def _hash_content(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _compile_pattern(pattern: str) -> Mapping[str, int]:
    try:
        return re.compile(pattern).groupindex
    except re.error as error:
        raise UserError(f"{pattern!r}: {error}", where="data.pattern") from error
