"""Every kind of dataset in the group `data` of the policy on bad input, made with nibabel from four good scans."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.data.tiny_dataset import AFFINE, SHAPE, Tiny, pair, save, tiny


@dataclass(frozen=True)
class Kind:
    """``expected`` error, ok or warn; ``hint``: groups separated by ``; `` of words separated by ``/``."""

    expected: str
    hint: str
    change: Callable[[Tiny], None]
    cases: int = 4
    sections: dict[str, Any] = field(default_factory=dict)

    def make(self, root: Path) -> Path:
        made = tiny(root, self.cases)
        (root / "imagesTr").mkdir(parents=True, exist_ok=True)
        (root / "labelsTr").mkdir(exist_ok=True)
        self.change(made)
        return made.finish()


def values(**changed: Any) -> Callable[[Tiny], None]:
    """The first label as another type, its first voxel (background) another value."""

    def change(made: Tiny) -> None:
        label = pair(0)[1].astype(changed["dtype"])
        if "value" in changed:
            label[0, 0, 0] = changed["value"]
        save(made.label(), label)

    return change


def label_on(affine: np.ndarray) -> Callable[[Tiny], None]:
    return lambda made: save(made.label(), pair(0)[1], affine) and None


def probabilities(made: Tiny) -> None:
    save(made.label(), np.random.default_rng(0).random(SHAPE).astype(np.float32))


def rgb(made: Tiny) -> None:
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"] = pair(0)[1]
    nib.save(nib.Nifti1Image(colours, AFFINE), made.label())


def one_hot(made: Tiny) -> None:
    label = pair(0)[1]
    save(made.label(), np.stack([label == n for n in range(3)], -1).astype(np.uint8))


def stored_flipped(made: Tiny) -> None:
    """All labels stored in another order than their images, and the second image in a third."""
    for n, codes in enumerate(("LPS", "ARI", "PIR", "SAL")):
        label = nib.load(made.label(n))
        change = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(label.affine), nib.orientations.axcodes2ornt(tuple(codes))
        )
        turned = label.as_reoriented(change)
        save(made.label(n), np.asanyarray(turned.dataobj), turned.affine)


def jitter(made: Tiny) -> None:
    moved = AFFINE.copy()
    moved[:3] += np.random.default_rng(0).normal(0, 2e-5, (3, 4))
    save(made.label(), pair(0)[1], moved)


def same_name(name: str) -> Callable[[Tiny], None]:
    """The first two cases under names that are one."""

    def change(made: Tiny) -> None:
        for n, stem in enumerate((unicodedata.normalize("NFC", name), other(name))):
            for key, folder in (("image", "imagesTr"), ("label", "labelsTr")):
                file = made.root / made.cases[n][key]
                suffix = ".nii" if name == "case_00" and n == 1 else ".nii.gz"
                target = f"{folder}/{stem}{suffix}"
                if suffix == ".nii":
                    nib.save(nib.load(file), made.root / target)
                    file.unlink()
                else:
                    file.rename(made.root / target)
                made.cases[n][key] = target

    return change


def other(name: str) -> str:
    decomposed = unicodedata.normalize("NFD", name)
    return decomposed if decomposed != name else name if name == "case_00" else name.upper()


def same_content(made: Tiny) -> None:
    made.image(3).write_bytes(made.image(0).read_bytes())
    made.label(3).write_bytes(made.label(0).read_bytes())


def empty(*cases: int) -> Callable[[Tiny], None]:
    def change(made: Tiny) -> None:
        for n in cases:
            save(made.label(n), np.zeros(SHAPE, np.uint8))

    return change


def truncated(made: Tiny) -> None:
    content = made.image().read_bytes()
    made.image().write_bytes(content[: len(content) // 2])


def nan(made: Tiny) -> None:
    image = pair(0)[0].astype(np.float32)
    image[3, 4, 5] = np.nan
    save(made.image(), image)


def two_channels(made: Tiny) -> None:
    save(made.image(), np.stack([pair(0)[0]] * 2, -1))


def swapped(made: Tiny) -> None:
    image, label = made.image().read_bytes(), made.label().read_bytes()
    made.image().write_bytes(label)
    made.label().write_bytes(image)


def nothing(made: Tiny) -> None:
    """As it comes."""


def shifted() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += 10
    return affine


LARGER = {"patch_size": [40, 32, 24], "architecture": {"name": "unet", "features": [4, 6, 8, 8]}}
INTEGER_WORDS = "label; integer/value"
GEOMETRY_WORDS = "affine/origin/geometry/spacing/orientation"
KINDS = {
    "t-good": Kind("ok", "", nothing),
    "t-label-float-integers": Kind("ok", "", values(dtype=np.float32)),
    "t-label-fractions": Kind("error", r"label; integer/fraction/0\.5", values(dtype=np.float32, value=0.5)),
    "t-label-probabilities": Kind("error", INTEGER_WORDS, probabilities),
    "t-label-negative": Kind("error", "label; -1/negative", values(dtype=np.int16, value=-1)),
    "t-label-unknown": Kind("error", "label; 7", values(dtype=np.uint8, value=7)),
    "t-label-255": Kind("error", "label; 255", values(dtype=np.uint8, value=255)),
    "t-label-nan": Kind("error", "label; nan/finite", values(dtype=np.float32, value=np.nan)),
    "t-label-rgb": Kind("error", "label; rgb/type/channel", rgb),
    "t-label-onehot": Kind("error", "label; 4/channel/dimension/shape", one_hot),
    "t-shape-mismatch": Kind("error", "shape/size; label", lambda made: save(made.label(), pair(0)[1][:, :, 1:]) and None),
    "t-shape-transposed": Kind("error", "shape/size/affine; label", lambda made: save(made.label(), pair(0)[1].T) and None),
    "t-affine-shift": Kind("error", f"{GEOMETRY_WORDS}; label", label_on(shifted())),
    "t-affine-spacing": Kind("error", f"{GEOMETRY_WORDS}; label", label_on(AFFINE * [1.2, 1.2, 1.2, 1])),
    "t-affine-flip": Kind("error", f"{GEOMETRY_WORDS}; label", label_on(np.diag([-1.0, 1, 1, 1]) @ AFFINE)),
    "t-label-stored-flipped": Kind("ok", "", stored_flipped),
    "t-affine-jitter": Kind("ok", "", jitter),
    "t-duplicate-id": Kind("error", "duplicate/twice/ambiguous", same_name("case_00")),
    "t-duplicate-unicode": Kind("error", "duplicate/unicode/same", same_name("m\u00fcller")),
    "t-duplicate-letter-case": Kind("error", "duplicate/case/same", same_name("scan_a")),
    "t-same-content": Kind("error", "duplicate/identical/same", same_content),
    "t-label-empty-one": Kind("warn", "no structure", empty(0)),
    "t-label-empty-all": Kind("error", "empty/no .*liver/foreground", empty(0, 1, 2, 3)),
    "t-label-missing": Kind("error", "label; missing/no label/found", lambda made: made.label().unlink()),
    "t-image-missing": Kind("error", "image; missing/no image/found", lambda made: made.image().unlink()),
    "t-image-truncated": Kind("error", "truncat/corrupt/incomplete", truncated),
    "t-image-nan": Kind("error", "nan/finite", nan),
    "t-image-4d-one": Kind("error", "channel/dimension/4", two_channels),
    "t-image-constant": Kind("warn", "constant", lambda made: save(made.image(), np.full(SHAPE, 40, np.int16)) and None),
    "t-image-label-swapped": Kind("error", "label", swapped),
    "t-no-cases": Kind("error", "no .*(case|image)/empty", nothing, cases=0),
    "t-one-case": Kind("error", "case/split/validation/fold", nothing, cases=1),
    "t-patch-larger": Kind("ok", "", nothing, sections={"plan": LARGER}),
}  # fmt: skip
