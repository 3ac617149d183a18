"""A model folder as one file: a zip of the same bytes for the same files, and safely back again."""

import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medseg.core.errors import DataError, OutputError
from medseg.core.files import is_there, write_durable
from medseg.io.source import open_regular, shown
from medseg.io.zipped import allowance, check_sizes, checked_zip, copied

MOST_MODEL_BYTES = 2**34
SUFFIXES = (".medseg", ".zip")
CARD = "model.json"
TEXTS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md")
_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}\.safetensors")
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}"
_OF_A_BUNDLE = re.compile(
    rf"configs/{_PLAIN}\.(json|ya?ml)|models/{_PLAIN}\.(pt|ts|safetensors)|(docs/)?LICENSE[a-z.]{{0,5}}"
)
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold
_UNIX, _FILE_644 = 3, 0o100644 << 16


def pack_files(path: Path, files: Sequence[Path], *, force: bool = False) -> str:
    """Write ``files`` under their plain names into the zip ``path`` and return its sha256.

    Sorted, not compressed (weights hardly shrink) and without times, so that the bytes depend on names and contents alone.
    Raises OutputError where ``path`` exists, unless ``force``.
    """
    if path.is_dir() or (is_there(path) and not force):
        raise OutputError(f"{shown(path)}: exists already; overwrite it with --force, or choose another name")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for file in sorted(files, key=lambda one: one.name):
                info = zipfile.ZipInfo(file.name, _EARLIEST)
                info.create_system, info.external_attr, info.file_size = _UNIX, _FILE_644, file.stat().st_size
                with file.open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, 2**20)

    return write_durable(path, write)


def unpack_model(path: Path, folder: Path) -> tuple[str, ...]:
    """Unpack the model in the zip ``path`` to ``folder``; a note where other files in it were ignored.

    model.json lies at the top of the archive or in its only folder; of what lies beside it, only weights (.safetensors),
    README and LICENSE are taken. Raises DataError for an archive that is damaged, hostile, too large, or holds no model.
    """
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        with checked_zip(path, file, folder) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            wanted = _of_the_model(path, infos)
            check_sizes(path, wanted, size, folder, MOST_MODEL_BYTES)
            left = allowance(size, MOST_MODEL_BYTES)
            for info in wanted:
                left -= _unpacked(path, archive, info, folder / PurePosixPath(info.filename).name, left)
    ignored = len(infos) - len(wanted)
    return (f"{shown(path)}: {ignored} other file(s) in the archive ignored",) if ignored else ()


@contextmanager
def unpacked_bundle(path: Path) -> Iterator[Path]:
    """The MONAI bundle in the zip ``path``, in a private temporary folder for the block: its configs, weights and licence.

    It lies at the top of the archive or in its only folder. Raises DataError for an archive that is damaged, hostile, too
    large, or holds no bundle.
    """
    with tempfile.TemporaryDirectory(prefix="medseg-") as name, open_regular(path) as file:
        folder = Path(name)
        size = file.seek(0, io.SEEK_END)
        with checked_zip(path, file, folder) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            names = {info.filename: PurePosixPath(info.filename) for info in infos}
            tops = [one.parents[1] for one in names.values() if one.parts[-2:] == ("configs", "metadata.json")]
            if len(tops) != 1 or len(tops[0].parts) > 1:
                raise DataError(
                    f"{shown(path)}: no MONAI bundle: no configs/metadata.json at its top or in a folder there"
                )
            within = {
                info.filename: names[info.filename].relative_to(tops[0])
                for info in infos
                if names[info.filename].is_relative_to(tops[0])
            }
            wanted = [
                info for info in infos if info.filename in within and _OF_A_BUNDLE.fullmatch(str(within[info.filename]))
            ]
            check_sizes(path, wanted, size, folder, MOST_MODEL_BYTES)
            left = allowance(size, MOST_MODEL_BYTES)
            for info in wanted:
                left -= _unpacked(path, archive, info, folder / within[info.filename], left)
        yield folder


def is_weights_name(name: str) -> bool:
    """True for the plain name of a safetensors file that is safe on any system."""
    return _WEIGHTS.fullmatch(name) is not None


def _of_the_model(path: Path, infos: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    cards = [PurePosixPath(info.filename) for info in infos if PurePosixPath(info.filename).name == CARD]
    tops = [card.parent for card in cards if len(card.parts) <= 2]
    if len(tops) != 1:
        found = "no model.json" if not tops else f"{len(tops)} files called model.json"
        raise DataError(
            f"{shown(path)}: {found} at its top or in a folder there, so this is no packed model; `medseg models pack` makes one"
        )
    return [
        info
        for info in infos
        if (name := PurePosixPath(info.filename)).parent == tops[0]
        and (name.name == CARD or name.name in TEXTS or is_weights_name(name.name))
    ]


def _unpacked(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, most: int) -> int:
    def write(temporary: Path) -> None:
        with archive.open(info) as source, temporary.open("wb") as opened:
            copied(path, info, source, opened, most=most)

    write_durable(target, write)
    return info.file_size
