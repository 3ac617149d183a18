"""Zip archives, good and bad, one builder for each row of the policy on bad input; written with zipfile, then bent."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.io import bad_dicom

Marker = tuple[float, float, float]


@dataclass(frozen=True)
class Kind:
    """``build(path)`` writes the archive; ``hints``: a refusal holds one of them; ``marker``: where the bright voxel lies."""

    build: Callable[[Path], None]
    hints: tuple[str, ...] = ()
    marker: Marker | None = None


def slices(folder: Path) -> dict[str, bytes]:
    """The good series, by member name."""
    return {f"study/{path.name}": path.read_bytes() for path in bad_dicom.good(folder / "source")}


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def plain(path: Path, **how: int) -> None:
    path.write_bytes(packed(slices(path.parent), **how))


def beside(more: dict[str, bytes]) -> Callable[[Path], None]:
    """The good series with ``more`` members beside it."""
    return lambda path: path.write_bytes(packed(slices(path.parent) | more)) and None


def _patched(change: Callable[[bytearray], bytes | bytearray | None]) -> Callable[[Path], None]:
    """The good archive with its bytes changed in place, or replaced."""

    def build(path: Path) -> None:
        content = bytearray(packed(slices(path.parent)))
        path.write_bytes(change(content) or content)

    return build


def _link(path: Path) -> None:
    content = io.BytesIO(packed(slices(path.parent)))
    with zipfile.ZipFile(content, "a") as archive:
        info = zipfile.ZipInfo("study/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    path.write_bytes(content.getvalue())


def _twice(path: Path) -> None:
    """Two members of one name: the second is written under another name of the same length, and renamed in the bytes."""
    members = slices(path.parent)
    content = packed(members | {"study/IM0001.dcn": b"x" * 100})
    path.write_bytes(content.replace(b"study/IM0001.dcn", b"study/IM0001.dcm"))


def _encrypted(content: bytearray) -> None:
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = content.index(mark)
        content[start + at] |= 1


def _sizes(claimed: int) -> Callable[[bytearray], None]:
    """The first member's size, in both of its headers, is ``claimed``."""

    def change(content: bytearray) -> None:
        for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
            start = content.index(mark) + at
            content[start : start + 4] = struct.pack("<L", claimed)

    return change


def _crc(content: bytearray) -> None:
    for mark, at in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        content[content.index(mark) + at] ^= 1


def _count(content: bytearray) -> None:
    """The end record says one entry more."""
    content[-12] += 1
    content[-14] += 1


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.dcm", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))


def _many(path: Path) -> None:
    path.write_bytes(packed({f"{n}": b"" for n in range(20_001)}, zipfile.ZIP_STORED))


_here = bad_dicom.marker_world()
_unsafe = ("path", "outside", "unsafe", "zip")

KINDS: dict[str, Kind] = {
    "z-good": Kind(plain, marker=_here),
    "z-stored": Kind(lambda path: plain(path, method=zipfile.ZIP_STORED), marker=_here),
    "z-macosx": Kind(beside({"__MACOSX/study/._IM0001.dcm": b"Mac OS X", "study/.DS_Store": b"\0"}), marker=_here),
    "z-slip": Kind(beside({"../evil.dcm": b"x"}), _unsafe),
    "z-slip-deep": Kind(beside({"study/a/../../../../evil.dcm": b"x"}), _unsafe),
    "z-absolute": Kind(beside({"/tmp/evil.dcm": b"x"}), ("path", "absolute", "unsafe", "zip")),
    "z-backslash": Kind(beside({"..\\..\\evil.dcm": b"x"}), _unsafe),
    "z-symlink": Kind(_link, ("link", "unsafe", "zip")),
    "z-bomb": Kind(_bomb, ("too large", "limit", "ratio", "bomb", "size")),
    "z-size-lie": Kind(_patched(_sizes(100)), ("size", "corrupt", "zip", "crc")),
    "z-nested": Kind(beside({"older.zip": packed({"a": b"b"})}), marker=_here),
    "z-many": Kind(_many, ("entries", "files", "limit")),
    "z-truncated": Kind(_patched(lambda content: content[: len(content) // 2]), ("zip", "truncat", "corrupt")),
    "z-crc": Kind(_patched(_crc), ("crc", "corrupt", "zip")),
    "z-encrypted": Kind(_patched(_encrypted), ("password", "encrypt")),
    "z-empty": Kind(lambda path: path.write_bytes(packed({})) and None, ("empty", "no image")),
    "z-duplicate-name": Kind(_twice, ("duplicate", "zip")),
    "z-not-zip": Kind(lambda path: path.write_text("not found\n") and None, ("zip",)),
    # Beyond the rows of the policy.
    "size-lie-larger": Kind(_patched(_sizes(2**20)), ("size", "corrupt")),
    "size-lie-huge": Kind(_patched(_sizes(2**32 - 2)), ("too large",)),
    "no-name": Kind(beside({".": b"x"}), _unsafe),
    "drive-letter": Kind(beside({"C:evil.dcm": b"x"}), ("absolute",)),
    "other-method": Kind(lambda path: plain(path, method=zipfile.ZIP_LZMA), ("method",)),
    "cut-in-the-directory": Kind(_patched(lambda content: content[:-30]), ("zip", "truncat", "corrupt")),
    "only-an-archive": Kind(
        lambda path: path.write_bytes(packed({"older.zip": b"PK"})) and None, ("no image or dicom file",)
    ),
    "directory-elsewhere": Kind(
        _patched(lambda content: content[:-10] + struct.pack("<L", 2**30) + content[-6:]), ("directory",)
    ),
    "fewer-entries-than-said": Kind(_patched(_count), ("entries",)),
    "folder-with-content": Kind(beside({"study/": b"x"}), ("corrupt",)),
    "before-the-archive": Kind(_patched(lambda content: b"#!/bin/sh\n" + content), ("directory",)),
}
