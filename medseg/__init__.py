"""Segment organs and lesions in CT, MR and other medical images: train, infer, evaluate.

The public names load on first use (PEP 562), so that ``import medseg`` loads neither torch nor any file format.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "train": "medseg.workflows.train",
    "check": "medseg.workflows.check",
    "infer": "medseg.workflows.infer",
    "evaluate": "medseg.workflows.evaluate",
    "compare": "medseg.workflows.compare",
    "convert": "medseg.workflows.convert",
    "Segmenter": "medseg.inference.segmenter",
    "load_config": "medseg.core.config",
    "Geometry": "medseg.core.geometry",
    "Volume": "medseg.core.volume",
    "LabelMap": "medseg.core.volume",
    "Labels": "medseg.core.labels",
    "MedsegError": "medseg.core.errors",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from medseg.core.config import load_config as load_config
    from medseg.core.errors import MedsegError as MedsegError
    from medseg.core.geometry import Geometry as Geometry
    from medseg.core.labels import Labels as Labels
    from medseg.core.volume import LabelMap as LabelMap
    from medseg.core.volume import Volume as Volume
    from medseg.inference.segmenter import Segmenter as Segmenter
    from medseg.workflows.check import check as check
    from medseg.workflows.compare import compare as compare
    from medseg.workflows.convert import convert as convert
    from medseg.workflows.evaluate import evaluate as evaluate
    from medseg.workflows.infer import infer as infer
    from medseg.workflows.train import train as train


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'medseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
