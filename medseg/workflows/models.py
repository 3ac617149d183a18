"""Models: list, show, pack, fetch and remove the model folders of this user. Only ``pull`` ever uses the network."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from medseg.core.errors import ConfigError, DataError, MedsegError, ModelError, OutputError
from medseg.core.files import (
    clear_unfinished,
    explained,
    is_there,
    make_folder,
    sha256_of,
    staged_folder,
    write_json,
)
from medseg.core.lock import run_lock
from medseg.core.progress import Progress, silent
from medseg.io.download import Download, check_url, download, without_query
from medseg.io.model_archive import (
    CARD,
    MOST_MODEL_BYTES,
    SUFFIXES,
    TEXTS,
    is_weights_name,
    pack_files,
    unpack_model,
)
from medseg.io.source import check_regular, shown
from medseg.models.bundle import Model, load_model
from medseg.models.installed import (
    CONVERTED,
    check_name,
    converted_beside,
    find_model,
    installed,
    models_folder,
    not_installed,
)
from medseg.models.model_json import ModelCard, read_card

HUB = "https://huggingface.co"
PULLED = "pulled.json"
_DOWNLOADS = ".downloads"
_MOST_TEXT_BYTES = 2**26
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_REPOSITORY = re.compile(r"hf://(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class Listed:
    """A row of the list: what model.json says, or the ``problem`` with it."""

    name: str
    folder: Path
    card: ModelCard | None
    bytes: int
    problem: str | None = None


@dataclass(frozen=True, eq=False)
class Pulled:
    """An installed model: its name, folder and verified content, the ``sha256`` of what came, and what to know of it."""

    name: str
    model: Model
    sha256: str
    notes: tuple[str, ...]


def list_models(folder: Path | None = None) -> list[Listed]:
    """The installed models by name; a damaged one with what is wrong. Weights are not read (``model_info`` does)."""
    found = []
    for path in installed(folder or models_folder()):
        try:
            found.append(Listed(path.name, path, read_card(path), size_of(path)))
        except MedsegError as error:
            found.append(Listed(path.name, path, None, size_of(path), str(error)))
    return found


def model_info(model: Path, folder: Path | None = None) -> Model:
    """The model ``model`` means, path or name, with every weight verified. Raises ModelError as ``load_model`` does."""
    found = find_model(model, folder=folder)
    if found == model and model.name == str(model) and not model.exists():
        raise not_installed(str(model), folder or models_folder())
    return load_model(found)


def size_of(folder: Path) -> int:
    """Bytes of the files in ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def pack(model: Path, output: Path, *, folder: Path | None = None, force: bool = False) -> str:
    """Write the verified model as one file, the same bytes for the same model, and return its sha256.

    In it are model.json, the weights it names, README and LICENSE; nothing else that lies in the folder. Raises ModelError for
    a model that does not verify, ConfigError for another suffix than .medseg or .zip, OutputError where ``output`` exists.
    """
    if not output.name.lower().endswith(SUFFIXES):
        raise ConfigError(f"{shown(output)}: a packed model is named {' or '.join(SUFFIXES)}")
    found = model_info(model, folder)
    names = (CARD, *found.card.weights, *(name for name in TEXTS if (found.folder / name).is_file()))
    return pack_files(output, [found.folder / name for name in names], force=force)


def pull(
    source: str,
    *,
    sha256: str | None = None,
    name: str | None = None,
    folder: Path | None = None,
    force: bool = False,
    hub: str = HUB,
    progress: Progress = silent,
) -> Pulled:
    """Install the model at ``source``: an https address or a file of a packed model, or ``hf://owner/name[@revision]``.

    ``sha256`` is that of the packed file, on Hugging Face that of model.json, which holds the hashes of all weights; what has
    another one is refused and removed. Interrupted, the same call goes on where it stopped. The model gets its ``name`` (by
    default that of the file or repository) only once every weight is verified; nothing of it is ever executed.

    Raises ConfigError for a source or name that is none, OutputError where the name is taken (unless ``force``), DataError
    and ModelError for what does not come, or is no sound model.
    """
    if sha256 is not None and not _HEX.fullmatch(sha256):
        raise ConfigError(f"--sha256 {sha256}: a sha256 has 64 hexadecimal digits")
    expected = sha256.lower() if sha256 else None
    repository = _REPOSITORY.fullmatch(source)
    if source.startswith("hf:") and repository is None:
        raise ConfigError(f"{source}: expected hf://owner/name, or hf://owner/name@revision")
    remote = repository is None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None
    if remote:
        check_url(source)
    own = repository["name"] if repository else PurePosixPath(unquote(urlsplit(source).path) if remote else source).name
    place = make_folder(folder or models_folder())
    clear_unfinished(place.glob(".*.tmp"))
    final = place / check_name(name or _without_suffix(own))
    if is_there(final) and not force:
        raise OutputError(f"{final}: a model of this name exists; replace it with --force, or choose another --name")
    if repository:
        files = _HubFiles(hub, repository["owner"], repository["name"], repository["revision"] or "main")
        with _downloads(place, f"{files.address(CARD)} {expected}") as parts:
            digest = files.fetch(parts, expected, progress)
            return _install(
                final, source, digest, lambda staging: files.hand_over(parts, staging), parts, compared=bool(expected)
            )
    if not remote:
        file = Path(source)
        digest = _digest(file, expected)
        return _install(final, shown(file), digest, lambda s: unpack_model(file, s), file, compared=bool(expected))
    with _downloads(place, f"{source} {expected}") as parts:
        part = parts / "model.part"
        digest = download(Download(source, part, expected, MOST_MODEL_BYTES), progress=progress)
        fill = partial(unpack_model, part)
        return _install(final, without_query(source), digest, fill, part, compared=bool(expected))


def remove(name: str, *, folder: Path | None = None) -> Path:
    """Delete the installed model ``name``, whole, and return the folder that it was. Raises ModelError where there is none.

    What it was converted to goes with it.
    """
    place = folder or models_folder()
    found = place / check_name(name)
    if not (found / CARD).is_file():
        raise not_installed(name, place)
    try:
        if found.is_symlink():
            found.unlink()
        else:
            shutil.rmtree(found.rename(place / f".{name}.{os.getpid()}.tmp"))
        for converted in (converted_beside(found, library) for library in CONVERTED):
            if converted.is_dir() and not (converted / CARD).is_file():  # a model may have any name
                shutil.rmtree(converted)
    except OSError as error:
        raise explained(error, found) from error
    return found


@dataclass(frozen=True)
class _HubFiles:
    """A model folder that lies as such in a repository of the Hugging Face hub, by plain https."""

    hub: str
    owner: str
    name: str
    revision: str

    def address(self, file: str) -> str:
        return f"{self.hub}/{self.owner}/{self.name}/resolve/{quote(self.revision, safe='')}/{file}"

    def fetch(self, parts: Path, expected: str | None, progress: Progress) -> str:
        """model.json, the weights that it names, and the README if there is one, into ``parts``; the sha256 of model.json."""
        card = parts / CARD
        digest = download(Download(self.address(CARD), card, expected, _MOST_TEXT_BYTES))
        for name, sha256 in _weights(card, self.address(CARD)).items():
            download(Download(self.address(name), parts / name, sha256, MOST_MODEL_BYTES), progress=progress)
        with suppress(DataError):  # a model without one is a model
            download(Download(self.address(TEXTS[0]), parts / TEXTS[0], None, _MOST_TEXT_BYTES))
        return digest

    def hand_over(self, parts: Path, folder: Path) -> tuple[str, ...]:
        for name in (CARD, *_weights(parts / CARD, self.address(CARD)), TEXTS[0]):
            if (parts / name).is_file():
                (parts / name).replace(folder / name)
                (parts / name).with_name(f"{name}.json").unlink(missing_ok=True)
        return ()


def _weights(card: Path, source: str) -> Mapping[str, str]:
    """File name -> sha256 of the weights that a model.json from elsewhere names."""
    try:
        weights = json.loads(card.read_text(encoding="utf-8"))["weights"]
        if all(is_weights_name(name) and _HEX.fullmatch(digest) for name, digest in weights.items()):
            return {name: str(digest).lower() for name, digest in weights.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ModelError(f"{source}: not the model.json of a medseg model, with plain names of weights and their sha256")


@contextmanager
def _downloads(place: Path, key: str) -> Iterator[Path]:
    """The folder in which the parts of one download wait for its end, held for this process; gone when the block ends well."""
    parts = make_folder(place / _DOWNLOADS / hashlib.sha256(key.encode()).hexdigest()[:16])
    with run_lock(parts):
        yield parts
    shutil.rmtree(parts, ignore_errors=True)


def _install(
    final: Path, source: str, sha256: str, fill: Callable[[Path], tuple[str, ...]], hides: Path, *, compared: bool
) -> Pulled:
    """Give what ``fill`` puts into a folder the name ``final``, once it has loaded as a model; errors name the ``source``."""
    downloads = final.parent / _DOWNLOADS
    with staged_folder(final) as staging:
        try:
            notes = fill(staging)
            model = load_model(staging)
        except DataError as error:
            if downloads in hides.parents:
                shutil.rmtree(hides if hides.is_dir() else hides.parent, ignore_errors=True)  # it would fail again
            raise type(error)(str(error).replace(str(staging), source).replace(str(hides), source)) from None
        write_json(staging / PULLED, {"source": source, "sha256": sha256})
    if not compared:
        notes = (*notes, f"its sha256 was compared with nothing; to be sure of what comes, pull with --sha256 {sha256}")
    return Pulled(final.name, replace(model, folder=final), sha256, notes)


def _digest(file: Path, expected: str | None) -> str:
    check_regular(file)
    try:
        found = sha256_of(file)
    except OSError as error:
        raise DataError(f"{shown(file)}: could not be read ({error.strerror or error})") from None
    if expected is not None and found != expected:
        raise DataError(f"{shown(file)}: its sha256 is {found}, expected {expected}; it is another file, or damaged")
    return found


def _without_suffix(name: str) -> str:
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
