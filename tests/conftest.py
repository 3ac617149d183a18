"""Where the real scans lie, for every test that runs on them, and figures that need no time."""

from pathlib import Path
from typing import IO, Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    default = Path(__file__).parents[2] / "shared" / "data"
    parser.addoption("--real-data", type=Path, default=default, help="folder of real scans (default: ../shared/data)")


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real scans; the test is skipped where it is absent."""
    folder: Path = request.config.getoption("--real-data")
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}; give --real-data DIR")
    return folder


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together but not rendered: that takes nine tenths of so small an evaluation."""

    def blank(figure: object, file: IO[bytes], *, format: str, **options: Any) -> None:
        file.write(b"<svg/>" if format == "svg" else b"\x89PNG\r\n\x1a\n")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank)
