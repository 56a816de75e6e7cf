"""Law 7 at random: a changed folder gives the same answers, or an error that names the file."""

import json
import random

import pytest
import torch

import fewer
from fewer import LTP
from fewer._files.manifest import MANIFEST, write_manifest
from fewer.hf.pretrained import load_tokenizer
from fewer.hf.side_file import SIDE_FILE
from tests.tiny import ragged, tiny, word_tokenizer

DEEP = "a list in a list in a list ..."
VALUES = (None, True, -1, 0, 1e308, float("nan"), 10**30, "", "x", [], {}, DEEP)
JSON = ("config.json", SIDE_FILE, "tokenizer_config.json", "tokenizer.json", MANIFEST)
TEXT = "w3 w7 w1 unknown w49"
WEIGHTS = "model.safetensors"
SAMPLE = 40  # of a fast test; all of them with `-m slow`


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a sealed folder, and what a whole one answers."""
    folder = tmp_path_factory.mktemp("fuzzed") / "model"
    fewer.save(fewer.attach(tiny(), LTP(final_threshold=0.2)), folder)
    word_tokenizer().save_pretrained(folder)
    write_manifest(folder)
    return folder, _answers(folder)


def _answers(folder):
    model = fewer.load(folder, precision=None)
    with torch.no_grad():
        logits = model(**ragged(tiny()))[0]  # a config may tell of no head
    return logits, load_tokenizer(folder)(TEXT)["input_ids"]


def _keys(content, path=()):
    """List the paths of all keys of a JSON object, of those inside it too."""
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from _keys(value, (*path, key))


def _replaced(text, path, value):
    """Return the JSON with the value of one key replaced."""
    content = inner = json.loads(text)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(content).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000)


def _changes(folder):
    """List every file with every key and every senseless value."""
    return [
        (name, path, value)
        for name in JSON
        for path in _keys(json.loads((folder / name).read_text()))
        for value in VALUES
    ]


def _damages(folder, step):
    """List every file with truncations and flipped bytes at every `step`-th position."""
    files = sorted(file.name for file in folder.iterdir())
    return [
        (name, kind, at)
        for name in files
        for at in range(0, (folder / name).stat().st_size, step)
        for kind in ("truncated", "flipped")
    ]


def _check(saved, name, content, *, sealed):
    """Load the folder with a file of other content; restores it.

    Answers stay only where a manifest tells what is meant: another config is another model.
    """
    folder, (logits, ids) = saved
    before, manifest = (folder / name).read_bytes(), (folder / MANIFEST).read_bytes()
    (folder / name).write_bytes(content)
    if not sealed:
        (folder / MANIFEST).unlink()
    found, message = None, name
    try:
        found = _answers(folder)
    except (ValueError, OSError) as error:
        message = str(error)
    finally:
        (folder / MANIFEST).write_bytes(manifest)
        (folder / name).write_bytes(before)
    assert name in message
    if sealed and found is not None:
        assert torch.equal(found[0], logits)
        assert found[1] == ids


def _check_change(saved, change, *, sealed):
    name, path, value = change
    if name != MANIFEST or sealed:
        text = _replaced((saved[0] / name).read_text(), path, value)
        _check(saved, name, text.encode(), sealed=sealed)


def _check_damage(saved, damage, *, sealed):
    name, kind, at = damage
    content = (saved[0] / name).read_bytes()
    wrong = content[:at]
    if kind == "flipped":
        wrong += bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]
    if name != MANIFEST or sealed:
        _check(saved, name, wrong, sealed=sealed)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")  # a newer version, an odd setting
def test_senseless_values_are_told_by_file(saved, sealed):
    for change in random.Random(0).sample(_changes(saved[0]), SAMPLE):
        _check_change(saved, change, sealed=sealed)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_is_told_by_file(saved, sealed):
    for damage in random.Random(0).sample(_damages(saved[0], 1), SAMPLE):
        _check_damage(saved, damage, sealed=sealed)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_senseless_values_are_told_by_file(saved, sealed):
    for change in _changes(saved[0]):
        _check_change(saved, change, sealed=sealed)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_of_every_file_is_told_by_file(saved, sealed):
    for damage in _damages(saved[0], 97):
        _check_damage(saved, damage, sealed=sealed)
