"""The page of a cohort, one file that opens without a network: every case with its picture, volumes and reasons for a look."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from medseg.core.text import printable
from medseg.report.html import inline, rendered

MOST_PICTURES = 200
"""Pictures in the page (some 50 kB each); the cases to be looked at come first, the others have a link."""
_SMALLER = 2  # an original pixel of a preview is this part of one in the page
_MOST_COLUMNS = 8


def cohort_page(folder: Path, content: Mapping[str, Any], previews: Mapping[str, str]) -> bytes:
    """``results.html`` of the cohort in ``folder``, whose results.json holds ``content``.

    ``previews``: the PNG of a case, relative to ``folder``, by the case's name.
    """
    cases = sorted(content["cases"], key=lambda case: (_rank(case), str(case["case"])))
    drawn = [case["case"] for case in cases if case["case"] in previews][:MOST_PICTURES]
    names = list(dict.fromkeys(name for case in cases for name in case["volumes_ml"]))
    shown = names if len(names) <= _MOST_COLUMNS else []
    return rendered(
        "cohort.html",
        model=content["model"],
        created=content["provenance"]["created"],
        device=content["device"],
        counts=content["counts"],
        to_review=sum(bool(case.get("review")) for case in cases),
        columns=[printable(name) for name in shown],
        cases=[_case(n, case, shown) for n, case in enumerate(cases)],
        pictures={name: _smaller(folder / previews[name]) for name in drawn},
        links={name: quote(path) for name, path in previews.items()},
        settings=[[name, _plain(value)] for name, value in content["settings"].items()],
        versions=content["provenance"]["versions"],
    )


def _rank(case: Mapping[str, Any]) -> int:
    """Failed cases first, then those to be reviewed, those with warnings, and the rest."""
    if case["status"] != "done":
        return 0
    return 1 if case.get("review") else 2 if case["warnings"] else 3


def _case(number: int, case: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    volumes = case["volumes_ml"]
    reviewed = [w.removeprefix("review: ") for w in case["warnings"] if w.startswith("review: ")]
    return {
        "anchor": f"case-{number}",
        "key": case["case"],
        "name": printable(case["case"]),
        "status": case["status"],
        "rank": _rank(case),
        "seconds": f"{sum(case['seconds'].values()):.1f}" if case["seconds"] else "",
        "cells": [f"{volumes[name]:.2f}" if name in volumes else "" for name in columns],
        "volumes": [[printable(name), f"{ml:.2f}", _predicted(case, name)] for name, ml in volumes.items()],
        "found": sum(ml > 0 for ml in volumes.values()),
        "review": [printable(reason) for reason in reviewed],
        "warnings": [printable(w) for w in case["warnings"] if not w.startswith("review: ")],
        "error": printable(case["error"] or ""),
        "files": [[printable(path), quote(path)] for path in sorted(case["outputs"])],
        "scans": [printable(source["path"]) for source in case["scan"]],
    }


def _predicted(case: Mapping[str, Any], structure: str) -> str:
    """The Dice that the model predicts of itself, such as `` (predicted Dice 0.91, 0.80 to 0.95)``; empty without one."""
    known = case.get("predicted_dice", {}).get(structure, {})
    if known.get("dice") is None:
        return ""
    limits = f", {known['low']:.2f} to {known['high']:.2f}" if None not in (known.get("low"), known.get("high")) else ""
    return f" (predicted Dice {known['dice']:.2f}{limits})"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{printable(k)}: {_plain(v)}" for k, v in value.items()) or "none"
    return "none" if value is None else printable(str(value))


def _smaller(png: Path) -> str:
    """The picture at half its size, as a data URI."""
    from matplotlib.image import imread, imsave

    pixels = imread(png)[..., :3]
    height, width = (n // _SMALLER * _SMALLER for n in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // _SMALLER, _SMALLER, width // _SMALLER, _SMALLER, 3)
    image = io.BytesIO()
    imsave(image, np.clip(blocks.mean(axis=(1, 3)), 0, 1), format="jpg", pil_kwargs={"quality": 85})
    return inline(image.getvalue())
