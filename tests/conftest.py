"""Where the real scans lie, for every test that runs on them."""

from pathlib import Path

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
