import importlib.machinery
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fewer.kernels
from fewer.kernels.cpu import library
from fewer.kernels.cpu.library import (
    Isa,
    available_isas,
    best_isa,
    make_sampler,
    prepack,
    unavailable_reason,
)
from tests.isas import every_isa, needs_kernels, pretend


@needs_kernels
def test_instruction_sets_are_sorted_and_the_best_is_the_last():
    assert list(available_isas()) == sorted(available_isas())
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        isas = [isa for isa in available_isas() if isa.dtype is dtype]
        assert best_isa(dtype) is (isas[-1] if isas else None)
    assert best_isa(torch.float64) is None
    assert unavailable_reason() is None


@every_isa
def test_a_packed_weight_is_whole_panels_in_whole_cache_lines(isa):
    packed = prepack(torch.randn(33, 7), isa)
    sizes = {
        Isa.GENERIC: 5 * 8 * 7 * 4,
        Isa.AVX2: 3 * 16 * 7 * 4,
        Isa.AVX512: 64 * 7 * 4,
        Isa.AVX2_INT8: 3 * 16 * (8 * 2 + 4),  # in 16 bits; the sums of the columns
        Isa.AVX512_VNNI: 64 * (8 + 4),
        Isa.AMX_INT8: 64 * (64 + 4),
    }
    assert packed.numel() == sizes.get(isa, 64 * 32 * 2)
    assert packed.data_ptr() % 64 == 0


@needs_kernels
def test_a_sample_changes_with_its_tensors_and_takes_empty_and_tiny_ones():
    tensors = [torch.zeros(0), torch.zeros(1), torch.zeros(1, dtype=torch.int8), torch.zeros(50)]
    sample = make_sampler(tensors)
    hashes = [sample()]
    for tensor in tensors[1:]:
        tensor.data.fill_(3)
        hashes.append(sample())
    assert len(set(hashes)) == 4
    assert sample() == hashes[-1]


@pytest.fixture
def _fresh(monkeypatch):
    """Clear the caches, before and after."""
    caches = library._library, library.available_isas, library._functions
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_without_the_library_plain_torch_runs_and_the_reason_is_named(monkeypatch):
    monkeypatch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [".none"])
    assert available_isas() == ()
    assert best_isa(torch.float32) is None
    assert "installed without its compiled kernels" in unavailable_reason()
    monkeypatch.setattr(fewer.kernels, "sdpa", lambda call: "sdpa")
    assert fewer.kernels.kernel("auto")(SimpleNamespace(q=torch.zeros(0))) == "sdpa"
    with pytest.raises(ValueError, match=r"kernel must be .* got 'native': .* Use 'auto'"):
        fewer.kernels.kernel("native")


@pytest.mark.usefixtures("_fresh")
def test_a_library_that_cannot_be_loaded_is_unavailable(monkeypatch, tmp_path):
    (tmp_path / "_kernels.none").write_text("no library")
    monkeypatch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [".none"])
    monkeypatch.setattr(library, "Path", lambda _: tmp_path / "file")
    assert "cannot be loaded" in unavailable_reason()
    assert available_isas() == ()


@needs_kernels
def test_a_processor_without_instruction_sets_is_named(monkeypatch):
    pretend(monkeypatch, None)
    assert "lacks AVX2" in unavailable_reason()


def test_the_build_names_every_source_file():
    source = Path(library.__file__).parent / "source"
    config = (Path(__file__).parents[4] / "pyproject.toml").read_text()
    for file in source.iterdir():
        assert f"src/fewer/kernels/cpu/source/{file.name}" in config
