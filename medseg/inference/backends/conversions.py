"""Networks as another library takes them: made once, checked by their hashes, kept beside the model folder."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from torch import nn

from medseg.core.errors import MedsegError, ModelError, OutputError, ResourceError
from medseg.core.files import clear_unfinished, is_plain_file, sha256_of, staged_folder, write_json
from medseg.models.bundle import Model
from medseg.models.installed import converted_beside

FORMAT = 1  # of what is kept
MOST_KEPT = 4  # conversions of one model: its folds alone and together, under one version of a library or two

_ONE_AT_A_TIME = Lock()


class NotConverted(ModelError):
    """A library does not run this network, or gives other logits than PyTorch."""


@dataclass(frozen=True)
class Converter:
    """How a ``library`` of a ``version`` gets its networks; ``title`` is its name in sentences.

    ``make`` makes something of a network, ``write`` writes it as ``fold_n`` with each ending of ``kinds``, ``read`` reads the
    first of these; ``take`` does without files what ``write`` and ``read`` do.
    """

    library: str
    title: str
    version: str
    kinds: tuple[str, ...]
    make: Callable[[nn.Module], Any]
    write: Callable[[Any, Path], object]
    read: Callable[[Path], Any]
    take: Callable[[Any], Any]


def converted(model: Model, converter: Converter, say: Callable[[str], None]) -> list[Any]:
    """The network of each fold of ``model``, for one patch (1, C, *patch_size) in float32.

    Where they were kept and their hashes agree, they are read; else they are made, which ``say`` is told, and kept in
    ``<model folder>.<library>`` or, where that cannot be written, in the user's cache folder. Raises NotConverted, and
    ModelError for weights that are damaged.
    """
    key = _key(model, converter)
    folders = [folder / f"{converter.version}-{_digest(key)[:16]}" for folder in _places(model, converter)]
    with _ONE_AT_A_TIME:
        for folder in folders:
            if (found := _kept(folder, key, converter)) is not None:
                for fold in range(len(model.card.weights)):
                    model.check_hash(fold)
                return found
        say(f"converting the network for {converter.title}, once")
        for folder in folders:
            with suppress(OutputError, ResourceError):
                _keep(folder, key, _made(model, converter), converter)
                if (found := _kept(folder, key, converter)) is not None:
                    return found
        return [converter.take(made) for made in _made(model, converter)]


def _places(model: Model, converter: Converter) -> list[Path]:
    """Where what was converted may be kept: beside the model folder, never in it, so that no model brings its own."""
    from platformdirs import user_cache_path

    return [converted_beside(model.folder, converter.library), user_cache_path("medseg") / converter.library]


def _key(model: Model, converter: Converter) -> dict[str, Any]:
    """What a conversion depends on."""
    plan = model.plan
    return {
        "format": FORMAT,
        converter.library: converter.version,
        "weights": dict(sorted(model.card.weights.items())),
        "architecture": plan.architecture.model_dump(mode="json"),
        "patch": [plan.channels, *plan.patch_size],
        "outputs": model.outputs,
        "headless": model.headless,
        "dimensions": plan.dimensions,
        "slice_axis": plan.slice_axis,
    }


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _kept(folder: Path, key: dict[str, Any], converter: Converter) -> list[Any] | None:
    """What was kept in ``folder``; None where it is another network's, damaged, or not there."""
    names = _files(key, converter)
    if folder.is_symlink() or not all(is_plain_file(folder / name) for name in ("conversion.json", *names)):
        return None
    try:
        content = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
        files = content["files"]
        if content["key"] != key or not all(sha256_of(folder / name) == files[name] for name in names):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        return [converter.read(folder / f"fold_{n}.{converter.kinds[0]}") for n in range(len(key["weights"]))]
    except Exception:  # of any kind, from a library that reads a file
        return None


def _files(key: dict[str, Any], converter: Converter) -> list[str]:
    return [f"fold_{n}.{kind}" for n in range(len(key["weights"])) for kind in converter.kinds]


def _keep(folder: Path, key: dict[str, Any], networks: Iterator[Any], converter: Converter) -> None:
    """Write ``networks`` into ``folder``, one in memory at a time, and clear the oldest conversions beside it."""
    with staged_folder(folder) as staging:
        for n, network in enumerate(networks):
            converter.write(network, staging / f"fold_{n}.{converter.kinds[0]}")
        files = {name: sha256_of(staging / name) for name in _files(key, converter)}
        write_json(staging / "conversion.json", {"key": key, "files": files})
    clear_unfinished(folder.parent.glob(".*.tmp"))
    if folder.parent.name.endswith(f".{converter.library}"):
        kept = [record.parent for record in sorted(folder.parent.glob("*/conversion.json"), key=_written_at)]
        for old in [other for other in kept if other != folder][: 1 - MOST_KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _written_at(path: Path) -> int:
    with suppress(OSError):
        return path.lstat().st_mtime_ns
    return 0  # another process has just removed it


def _made(model: Model, converter: Converter) -> Iterator[Any]:
    for fold in range(len(model.card.weights)):
        network = model.network(fold).eval()
        try:
            yield converter.make(network)
        except MedsegError:
            raise
        except Exception as error:  # of any kind, from a converter
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NotConverted(
                f"{model.folder}: {converter.title} cannot convert the network {model.plan.architecture.name} ({reason})"
            ) from error
