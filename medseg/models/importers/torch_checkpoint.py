"""Tensors and plain facts out of a torch checkpoint of unknown origin: checked, then read in a child process.

A checkpoint is a pickle in a zip. torch's ``weights_only`` reader builds tensors, containers, numbers and the few kinds of
``SAFE`` and refuses all else before it runs; it is called here alone, and only in a child with limits on memory and time.
"""

import json
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.errors import ModelError
from medseg.io.child import ChildError, decoded

GIB = 2**30
USUAL = ("state_dict", "model", "network", "model_state_dict")
SLOWEST_BYTES_PER_SECOND = 5e6
MOST_TENSORS = 100_000
LONGEST_LIST, LONGEST_TEXT = 16, 200
# numpy numbers, as a trainer's log holds them: under the name of numpy 1 and of numpy 2.
_SCALAR = np.float64(0).__reduce__()[0]
_DTYPES = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
SAFE: list[Any] = [
    np.dtype,
    *_DTYPES,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors under ``weights`` (float or integer, on the CPU) and the plain ``facts`` that were asked for."""

    weights: dict[str, Tensor]
    facts: dict[str, Any]


def read_checkpoint(file: Path, *, weights: str | None, facts: Mapping[str, tuple[str, ...]]) -> Checkpoint:
    """The mapping of tensors called ``weights`` in the checkpoint ``file``, and the ``facts``: a name -> a path of keys.

    ``weights`` None: the checkpoint is that mapping itself, or has it under one of ``USUAL``.

    A fact that is not there, or is none of text, number, list or None, is left out. Raises ModelError naming the file where
    it is no checkpoint, is damaged, holds code, or has no such weights; nothing of it is ever executed.
    """
    _check_archive(file)
    size = file.stat().st_size
    order = {"file": str(file), "weights": weights, "facts": {name: list(keys) for name, keys in facts.items()}}
    try:
        arrays = decoded(
            __name__,
            order,
            seconds=60 + size / SLOWEST_BYTES_PER_SECOND,
            memory_bytes=4 * size + 2 * GIB,
            most_bytes=max(size, 2**16),
        )
        listing = json.loads(next(arrays).tobytes())
        tensors = {
            name: torch.from_numpy(array).view(getattr(torch, kind)).reshape(shape)
            for (name, kind, shape), array in zip(listing["tensors"], arrays, strict=True)
        }
    except ChildError as error:
        raise ModelError(f"{file}: {_readable(str(error))}") from None
    except (StopIteration, ValueError):
        raise ModelError(f"{file}: this checkpoint could not be read; copy or download it again") from None
    return Checkpoint(tensors, listing["facts"])


def _check_archive(file: Path) -> None:
    """Raise ModelError where ``file`` is not a whole zip of stored records, as torch writes it, with right checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            names = [record.filename for record in records]
            if any(name.startswith("/") or ".." in name.split("/") for name in names):
                raise ModelError(f"{file}: unsafe: a path in this checkpoint leads out of it, so it is not read")
            if any("/code/" in name or name.endswith("constants.pkl") for name in names):
                raise ModelError(
                    f"{file}: a TorchScript model, which holds code and is not run; give the checkpoint with the weights"
                )
            if not any(name.endswith("/data.pkl") for name in names):
                raise ModelError(f"{file}: not a checkpoint that torch wrote: the archive has no data.pkl")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ModelError(
                    f"{file}: not a checkpoint that torch wrote: it is compressed, so its size is not bounded"
                )
            damaged = archive.testzip()
        if damaged:
            raise ModelError(f"{file}: corrupt: the checksum (CRC) of {damaged} is wrong; copy or download it again")
    except FileNotFoundError:
        raise ModelError(f"{file}: this checkpoint does not exist") from None
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError):
        raise ModelError(f"{file}: {_what_else(file)}") from None
    except OSError as error:
        raise ModelError(f"{file}: this checkpoint cannot be read ({error.strerror or error})") from None


def _what_else(file: Path) -> str:
    with file.open("rb") as stream:
        start = stream.read(64)
    if not start:
        return "this checkpoint is empty; copy or download it again"
    if start.startswith(b"PK"):
        return "this checkpoint is corrupt or truncated; copy or download it again"
    if start.startswith(b"\x80"):
        return "a bare pickle, which may hold code and is unsafe, so it is not read; a checkpoint of torch 1.6 or later is a zip"
    if start.lstrip().startswith(b"<"):
        return "not a checkpoint but a web page; download it again"
    return "not a checkpoint that torch wrote (a zip with data.pkl); safetensors and other formats are not read here"


def _readable(words: str) -> str:
    if "UnpicklingError" in words or "Weights only load failed" in words:
        return (
            "this checkpoint holds code or objects other than weights and numbers, which are not allowed, so it is unsafe and "
            "was not loaded"
        )
    return f"this checkpoint could not be read: {words.removeprefix('ValueError: ')}"


def decode(order: Mapping[str, Any]) -> Iterator[npt.NDArray[Any]]:
    """In the child: a JSON listing of the facts and tensors as bytes, then the tensors in its order."""
    file = order["file"]
    foreign = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(file)) - _names(SAFE))
    if foreign:
        raise ValueError(f"it holds code or objects that are not allowed ({', '.join(foreign[:3])}), so it is unsafe")
    with torch.serialization.safe_globals(SAFE):
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    state = _weights(content, order["weights"])
    if not isinstance(state, dict) or not state:
        held = ", ".join(map(str, list(content)[:6])) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"it has no weights under {order['weights'] or USUAL[0]!r}, only {held}")
    if len(state) > MOST_TENSORS or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"its {order['weights'] or 'content'} is not a mapping of names to tensors")
    facts = {name: _plain(_at(content, keys)) for name, keys in order["facts"].items()}
    found = state if order["weights"] is None else _once_each(state)
    if any(tensor.layout != torch.strided for tensor in found.values()):
        raise ValueError(f"its {order['weights'] or 'content'} holds tensors that are not dense")
    # A tensor may repeat its bytes without end.
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > Path(file).stat().st_size:
        raise ValueError(f"its {order['weights'] or 'content'} claims more bytes than the file has")
    tensors = {name: tensor.detach().contiguous() for name, tensor in found.items()}
    listing = {
        "facts": {name: value for name, value in facts.items() if value is not None},
        "tensors": [
            (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in tensors.items()
        ],
    }
    yield np.frombuffer(json.dumps(listing).encode(), np.uint8)
    for tensor in tensors.values():
        yield _as_numpy(tensor)


def _weights(content: Any, name: str | None) -> Any:
    if not isinstance(content, dict):
        return None
    if name is not None:
        return content.get(name)
    return next((content[one] for one in USUAL if isinstance(content.get(one), dict)), content)


def _names(kinds: list[Any]) -> set[str]:
    return {kind[1] if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}" for kind in kinds}


def _once_each(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name of each tensor: nnU-Net lists most of them two to four times."""
    from medseg.models.unet import from_nnunet_state_dict

    return from_nnunet_state_dict(OrderedDict(state))


def _at(content: Any, keys: list[str]) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _plain(value: Any) -> Any:
    """``value`` where it is a short text, a number, or a short list of those; None for all else."""
    if isinstance(value, list | tuple):
        return [None if isinstance(one, list | tuple) else _plain(one) for one in value[:LONGEST_LIST]]
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    return value if isinstance(value, int | float) and abs(value) < 2**63 else None


def _as_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    """The same bytes in a type that numpy has."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array
