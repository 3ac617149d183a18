"""The policy's group model: what each row does to a whole model folder, or which foreign file stands in its place."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from medseg.core.files import sha256_of

WEIGHTS = "fold_0.safetensors"
FIRST = "encoder.stages.0.0.convs.0.conv.weight"
LAST = "decoder.seg_layers.0.weight"


@dataclass(frozen=True)
class Row:
    """``make`` damages the whole model folder it is given and returns what to pass as --model."""

    id: str
    hints: tuple[str, ...]
    make: Callable[[Path], Path]


def edit_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = folder / "model.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Other weights with a right hash: only their content can tell."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(tensors)
    return with_weights(folder, safetensors.torch.save(tensors))


def with_weights(folder: Path, raw: bytes) -> Path:
    (folder / WEIGHTS).write_bytes(raw)
    return edit_card(folder, lambda card: card["weights"].update({WEIGHTS: sha256_of(folder / WEIGHTS)}))


def _cut(share: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        raw = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(raw[: int(len(raw) * share)])
        return folder

    return make


def _flip(folder: Path) -> Path:
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-100] ^= 1
    (folder / WEIGHTS).write_bytes(raw)
    return folder


class Canary:
    """Unpickling it leaves a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.place / "canary", "executed")


def _foreign(name: str, content: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    """A file in the place of the folder."""

    def make(folder: Path) -> Path:
        file = folder.parent / name
        file.write_bytes(content(folder.parent))
        return file

    return make


def _torch_bytes(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def _torchscript(_: Path) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        archive.writestr("model/code/__torch__.py", "op_version_set = 1")
    return buffer.getvalue()


def _zip_slip(_: Path) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("../canary", "escaped")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    return buffer.getvalue()


def _zip_bomb(_: Path) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**26))
    return buffer.getvalue()


def _header(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    raw = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return with_weights(folder, struct.pack("<Q", len(text)) + text + raw[8 + size :])


def _offsets(start: int, end: int) -> Callable[[dict[str, Any]], object]:
    return lambda header: header[FIRST].update(data_offsets=[start, end])


def _swap_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[FIRST] = tensors[FIRST][:, :, :1].contiguous()


def _two_outputs(tensors: dict[str, torch.Tensor]) -> None:
    for key in (LAST, LAST.replace("weight", "bias")):
        tensors[key] = tensors[key][:2].contiguous()


def _value(number: float) -> Callable[[Path], Path]:
    return lambda folder: edit_weights(folder, lambda tensors: tensors[FIRST].view(-1).__setitem__(3, number))


def _emptied(folder: Path) -> Path:
    for file in folder.iterdir():
        file.unlink()
    return folder


_TRUNCATED = "truncat|corrupt|checkpoint|model"
_HEADER = "safetensors|header|corrupt|offset|truncat|model"

ROWS = [
    Row("m-empty", ("empty|checkpoint|model",), _emptied),
    Row("m-html", ("checkpoint|model|not a",), _foreign("m.safetensors", lambda _: b"<!DOCTYPE html><html>404</html>")),
    *(Row(f"m-trunc-{share}", (_TRUNCATED,), _cut(share)) for share in (0.1, 0.5, 0.9, 0.999)),
    Row("m-bitflip-weights", ("corrupt|crc|checksum|hash",), _flip),
    Row(
        "m-exec-torch",
        ("unsafe|weights|not allowed|unsupported|code",),
        _foreign("m.pth", lambda folder: _torch_bytes({"state_dict": Canary(folder)})),
    ),
    Row(
        "m-exec-pickle",
        ("unsafe|pickle|weights|checkpoint|code",),
        _foreign("m.ckpt", lambda folder: pickle.dumps(Canary(folder))),
    ),
    Row(
        "m-exec-pkl-name",
        ("unsafe|pickle|checkpoint|type",),
        _foreign("m.pkl", lambda folder: pickle.dumps(Canary(folder))),
    ),
    Row("m-torchscript", ("torchscript|checkpoint|model|format",), _foreign("m.pt", _torchscript)),
    Row(
        "m-whole-module",
        ("weights|checkpoint|module|unsafe|state",),
        _foreign("m.pt", lambda _: _torch_bytes(torch.nn.Linear(2, 2))),
    ),
    Row("m-missing-keys", ("missing|key|architecture|match",), lambda m: edit_weights(m, lambda t: t.pop(FIRST))),
    Row(
        "m-extra-keys",
        ("unexpected|key|architecture|match",),
        lambda m: edit_weights(m, lambda t: t.update(extra=torch.zeros(2))),
    ),
    Row("m-wrong-shape", ("shape|size|architecture|match",), lambda m: edit_weights(m, _swap_shape)),
    Row("m-other-labels", ("label|class|output",), lambda m: edit_weights(m, _two_outputs)),
    Row("m-nan", ("nan|finite|weights",), _value(float("nan"))),
    Row("m-inf", ("inf|finite|weights",), _value(float("inf"))),
    Row("m-future", ("version|newer|999",), lambda m: edit_card(m, lambda c: c.update(format_version=999))),
    Row("m-no-meta", ("checkpoint|config|metadata|medseg",), lambda m: (m / "model.json").unlink() or m),
    Row(
        "m-wrong-dtype",
        ("type|dtype|float",),
        lambda m: edit_weights(m, lambda t: t.update({FIRST: t[FIRST].to(torch.int64)})),
    ),
    Row(
        "m-safetensors-huge-header",
        (_HEADER,),
        lambda m: with_weights(m, struct.pack("<Q", 2**62) + b"{}" + bytes(100)),
    ),
    Row(
        "m-safetensors-not-json",
        (_HEADER,),
        lambda m: with_weights(m, struct.pack("<Q", 8) + b"not json" + bytes(100)),
    ),
    Row("m-safetensors-offset", (_HEADER,), lambda m: _header(m, _offsets(10**9, 10**9 + 432))),
    Row("m-safetensors-overlap", (_HEADER,), lambda m: _header(m, _offsets(8, 440))),
    Row(
        "m-safetensors-trunc",
        (_HEADER,),
        lambda m: with_weights(m, (m / WEIGHTS).read_bytes()[:-40]),
    ),
    Row("m-zip-slip", ("checkpoint|model|unsafe|corrupt|path",), _foreign("m.zip", _zip_slip)),
    Row("m-zip-bomb", ("checkpoint|model|corrupt|size",), _foreign("m.pt", _zip_bomb)),
]
