"""A dataset to train on and the conditions for quick trainings with the same bits on any machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.data.tiny_dataset import tiny


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The same bits on any machine, and no thread waits for another on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves and overlays take three quarters of so short a training."""
    for name in ("save_curves", "save_overlays"):
        monkeypatch.setattr(f"medseg.workflows.train_fold.{name}", lambda *args, **kwargs: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four small scans in the layout of the Decathlon."""
    return tiny(tmp_path / "data").finish()
