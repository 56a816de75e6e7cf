"""Kills at any moment, a full disk, two writers: every run ends at the same weights."""

import multiprocessing
import random
import time

import pytest
import torch
from safetensors.torch import load_file

import fewer
from fewer._files.locking import lock_folder
from tests.faults import files_of_at_most
from tests.unit.training.synthetic import run, small_model

KILLS = 3  # of a fast test


def _train(folder, resume):
    torch.set_num_threads(1)
    run(folder, resume=resume)


def _weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def _assert_same(folder, reference):
    actual, expected = _weights(folder), _weights(reference)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    fewer.load(folder / "model")  # checked by its manifest


@pytest.fixture(scope="module")
def processes():
    """Return a context whose processes begin with torch and fewer imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.unit.training.synthetic"])
    first = context.Process(target=time.sleep, args=(0,))  # waits for the imports
    first.start()
    first.join()
    return context


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Run once to the end; return the folder and how many seconds it took."""
    folder = tmp_path_factory.mktemp("power") / "whole"
    start = time.perf_counter()
    _train(folder, False)
    return folder, time.perf_counter() - start


def _kill_at_times(processes, folder, unbroken, generator, kills):
    reference, seconds = unbroken
    for _ in range(kills):
        process = processes.Process(target=_train, args=(folder, True))
        process.start()
        process.join(generator.uniform(0.1, 0.8) * seconds)
        process.kill()
        process.join()
    process = processes.Process(target=_train, args=(folder, True))
    process.start()
    process.join()
    assert process.exitcode == 0
    _assert_same(folder, reference)


def test_a_run_killed_at_random_moments_ends_at_the_same_weights(processes, unbroken, tmp_path):
    _kill_at_times(processes, tmp_path / "run", unbroken, random.Random(1), KILLS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_runs_killed_many_times_end_at_the_same_weights(processes, unbroken, tmp_path, seed):
    _kill_at_times(processes, tmp_path / "run", unbroken, random.Random(seed), 5)


def test_a_run_stopped_by_a_full_disk_resumes_to_the_same_weights(unbroken, tmp_path):
    reference, _ = unbroken
    with files_of_at_most(20_000), pytest.raises(OSError, match="checkpoint-2"):
        run(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("model"))
    run(tmp_path / "run", resume=True)
    _assert_same(tmp_path / "run", reference)


def test_a_second_run_in_one_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    with lock_folder(folder), pytest.raises(ValueError, match=str(folder)):
        run(folder)
    assert not (folder / "fit.json").exists()


def test_another_base_model_cannot_resume_a_run(tmp_path):
    with files_of_at_most(20_000), pytest.raises(OSError, match="checkpoint"):
        run(tmp_path)
    second_model = small_model(seed=1)
    with pytest.raises(ValueError, match="weights differ"):
        run(tmp_path, second_model, resume=True)


def test_a_new_head_does_not_change_the_base_model(tmp_path):
    with files_of_at_most(20_000), pytest.raises(OSError, match="checkpoint"):
        run(tmp_path)
    model = small_model()
    torch.nn.init.normal_(model.classifier.weight)
    with files_of_at_most(20_000), pytest.raises(OSError, match="checkpoint"):
        run(tmp_path, model, resume=True)


def test_a_damaged_final_model_is_detected(unbroken, tmp_path):
    run(tmp_path)
    for name in ("model.safetensors", "config.json"):
        file = tmp_path / "model" / name
        content = file.read_bytes()
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(ValueError, match=name):
            fewer.load(tmp_path / "model")
        file.write_bytes(content)
    fewer.load(tmp_path / "model")
