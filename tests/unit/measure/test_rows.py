"""A row names the code, the machine and the command that made it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from fewer.measure import rows
from fewer.measure.rows import provenance


def _git(folder: Path, *words: str) -> str:
    given = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *given, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _package(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout around `root`/measure/rows.py, and let the module stand there."""
    module = root / "measure" / "rows.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(rows, "__file__", str(module))
    return module


def test_a_row_names_the_commit_of_its_checkout_and_whether_it_was_changed(
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


def test_an_installed_package_has_no_commit_not_even_another_projects(
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


def test_a_row_names_the_machine() -> None:
    told = provenance()
    assert told["cores"] == os.cpu_count()
    assert told["system"] == platform.platform()
    assert {"commit", "modified", "processor", "threads", "versions", "command"} <= set(told)
