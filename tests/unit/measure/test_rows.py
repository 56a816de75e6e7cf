"""A row records the code, the machine and the command of its measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from fewer.measure import rows
from fewer.measure.rows import provenance


def _git(folder: Path, *words: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    process = subprocess.run(
        ["git", "-C", str(folder), *options, *words], capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def _package(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout around `root`/measure/rows.py, and let the module stand there."""
    module = root / "measure" / "rows.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(rows, "__file__", str(module))
    return module


def test_a_row_records_the_commit_of_its_checkout_and_if_it_was_modified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _package(tmp_path / "src" / "fewer", monkeypatch)
    _git(tmp_path, "init", "-q")
    assert rows._checkout() == {"commit": None, "modified": None}  # nothing committed yet
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "one")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert rows._checkout() == {"commit": commit, "modified": False}
    module.write_text("changed = True\n")
    assert rows._checkout() == {"commit": commit, "modified": True}


def test_an_installed_package_has_no_commit_even_inside_another_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(tmp_path / ".venv" / "lib" / "fewer", monkeypatch)
    assert rows._checkout() == {"commit": None, "modified": None}
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "a project that uses fewer")
    assert rows._checkout() == {"commit": None, "modified": None}
    monkeypatch.setenv("PATH", "")  # no git at all
    assert rows._checkout() == {"commit": None, "modified": None}


def test_a_row_records_the_machine() -> None:
    row = provenance()
    assert row["cores"] == os.cpu_count()
    assert row["system"] == platform.platform()
    assert {"commit", "modified", "processor", "threads", "versions", "command"} <= set(row)
