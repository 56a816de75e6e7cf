"""The frame the other tests stand on, and the promises the project makes as a whole."""

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

import fewer
from scripts.check_docs import undocumented, unresolved

ROOT = Path(__file__).parents[2]


def test_another_host_is_out_of_reach():
    with pytest.raises(RuntimeError, match=r"'192\.0\.2\.1': tests run with no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(RuntimeError, match="no network"):
        socket.getaddrinfo("example.org", 443)


def test_this_machine_is_in_reach():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=1) as client,
    ):
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_starts_from_the_same_seed(turn):
    assert np.random.randint(1000) == 684  # noqa: NPY002
    assert torch.randint(1000, ()).item() == 44


def test_tests_run_on_one_thread_and_offline():
    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_hypothesis_draws_the_same_examples_every_time():
    assert settings.default.derandomize
    assert settings.default.deadline is None


def test_version_is_the_packaged_one():
    assert fewer.__version__ == importlib.metadata.version("fewer")


def test_public_names_are_few_and_real():
    assert 0 < len([name for name in fewer.__all__ if not name.startswith("__")]) <= 35
    assert [name for name in fewer.__all__ if not hasattr(fewer, name)] == []


def test_import_is_silent_and_leaves_optional_packages_alone():
    code = "import sys, fewer; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) & {"accelerate", "datasets", "peft", "sklearn", "typer"} == set()
    assert run.stderr == ""


def test_a_name_counts_as_documented_only_as_a_whole_word(tmp_path):
    (tmp_path / "page.md").write_text("Call `fewer.attach(model)`; `LTPlus` is another thing.")
    assert undocumented(["attach", "LTP"], tmp_path) == ["LTP"]


def test_a_dotted_name_on_a_page_must_exist(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("`fewer.hf.attach.attach` `fewer.adjust` `fewer.json` `fewer.exits` fewer.")
    assert unresolved(page) == ["fewer.adjust", "fewer.exits"]


def test_make_help_lists_every_target():
    targets = set(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[0].split())
    command = ["make", "--no-print-directory", "help"]  # this may run inside another make
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in shown.stdout.splitlines()} == targets
