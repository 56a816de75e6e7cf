"""Side files of version 0.1.0, one per method and stack, still describe the same methods.

They were written before the second design renamed settings; renamed ones go through a table.
"""

import json
import shutil
from pathlib import Path

import pytest

from fewer.hf.side_file import SIDE_FILE, method_to, read_settings
from fewer.methods.registry import METHODS

FOLDER = Path(__file__).parents[2] / "fixtures" / "side_files"
FILES = sorted(FOLDER.glob("*.json"))


def _names(description: object) -> set[str]:
    """Collect the names of a method and of those inside it."""
    if isinstance(description, list):
        return set().union(*map(_names, description)) if description else set()
    if not isinstance(description, dict):
        return set()
    inside = set().union(*map(_names, description.values()))
    return inside | ({description["name"]} if "name" in description else set())


def test_every_method_has_a_file():
    described = [json.loads(path.read_text())["method"] for path in FILES]
    assert set().union(*map(_names, described)) == set(METHODS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_old_side_file_is_read_as_it_was_written(path: Path, tmp_path: Path):
    shutil.copy(path, tmp_path / SIDE_FILE)
    written = json.loads(path.read_text())
    settings = read_settings(tmp_path)
    assert json.loads(json.dumps(method_to(settings.method))) == written["method"]
    assert (settings.kernel, list(settings.protect)) == (written["kernel"], written["protect"])
