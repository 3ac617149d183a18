"""What made a result: versions, machine, command line. Holds no user name, host name or patient data."""

import platform
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "torch",
    "monai",
    "lightning",
    "numpy",
    "scipy",
    "statsmodels",
    "nibabel",
    "SimpleITK",
    "pydicom",
    "safetensors",
    "openvino",
)


def versions() -> dict[str, str]:
    """Version of medseg, Python and each package that results depend on; read from metadata, nothing is imported."""
    found = {"medseg": _version("medseg"), "python": platform.python_version()}
    return {**found, **{name: _version(name) for name in PACKAGES}}


def provenance() -> dict[str, Any]:
    """Versions, platform, time (UTC) and command verb of this process."""
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1] if len(sys.argv) > 1 and sys.argv[0].endswith(("medseg", "__main__.py")) else "python",
    }


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
