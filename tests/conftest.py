"""What every test may count on: one seed, one thread, no network, a fresh Hugging Face cache."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

# Hugging Face's libraries read these when they are imported.
HF_HOME = tempfile.mkdtemp(prefix="fewer-tests-")
os.environ.update(HF_HOME=HF_HOME, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reports to its makers from its import on

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():  # Triton reads this when it is imported, which torch delays
    os.environ.setdefault("TRITON_INTERPRET", "1")

SEED = 0
HERE = Path(__file__).parent
THIS_MACHINE = {None, "", "127.0.0.1", "::1", "localhost"}

torch.set_num_threads(1)
hypothesis.settings.register_profile("fewer", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fewer")


def _stay_on_this_machine(event: str, args: tuple[object, ...]) -> None:
    """Refuse to resolve or reach another host; a RuntimeError, for libraries retry an OSError."""
    if event in {"socket.connect", "socket.sendto"}:
        host = args[1][0] if isinstance(args[1], tuple) else None  # a Unix socket has a path
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = args[0]
    else:
        return
    if host not in THIS_MACHINE:
        raise RuntimeError(f"a test reached for {host!r}: tests run with no network")


sys.addaudithook(_stay_on_this_machine)


def pytest_unconfigure() -> None:
    shutil.rmtree(HF_HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies under tests/slow; skip what wants a GPU where there is none."""
    for item in items:
        if HERE / "slow" in item.path.parents:
            item.add_marker("slow")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  (libraries draw from the global generator)
    torch.manual_seed(SEED)
