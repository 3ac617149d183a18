"""Devices by name, and what running out of memory becomes."""

import pytest
import torch

from medseg.core.errors import ConfigError, ResourceError
from medseg.inference.device import choose_device, enough_memory


def test_the_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    "name", ["gpu", "tpu", "cuda:x", "cuda:-1", "cuda:", "cpu:", "cpu:0", "", "CUDA", "cuda:\u00b2"]
)
def test_another_word_is_refused(name):
    with pytest.raises(ConfigError, match="unknown; choose auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_without_a_gpu_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match=f"{name}: no CUDA GPU"):
        choose_device(name)


def test_a_gpu_beyond_those_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ResourceError, match="there are 2"):
        choose_device("cuda:2")


def test_torchs_own_words_for_no_memory_become_a_resource_error():
    with pytest.raises(ResourceError, match="cpu: out of memory; use a smaller"), enough_memory(torch.device("cpu")):
        torch.empty(2**60)
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")):
        with pytest.raises(ResourceError, match="out of memory"), enough_memory(torch.device("cpu")):
            raise error


def test_any_other_error_passes():
    with pytest.raises(RuntimeError, match="sizes"), enough_memory(torch.device("cpu")):
        raise RuntimeError("sizes do not fit")
    with pytest.raises(ValueError, match="7"), enough_memory(torch.device("cpu")):
        raise ValueError("7")
