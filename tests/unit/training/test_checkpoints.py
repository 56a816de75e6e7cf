import json

import pytest

from fewer.training.checkpoints import is_whole, newest_whole, seal

FILES = {"model.safetensors": b"w" * 2000, "optimizer.pt": b"o" * 1000, "nested/rng.pth": b"r"}


def _checkpoint(folder, number=1):
    place = folder / f"checkpoint-{number}"
    (place / "nested").mkdir(parents=True)
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def sealed(tmp_path):
    place = _checkpoint(tmp_path)
    seal(place)
    return place


def test_a_sealed_folder_is_whole(sealed):
    assert is_whole(sealed)
    assert {file.name for file in sealed.iterdir()} == {
        "model.safetensors",
        "optimizer.pt",
        "nested",
        "manifest.json",
    }


def test_a_folder_without_a_manifest_is_not_whole(tmp_path):
    assert not is_whole(_checkpoint(tmp_path))
    assert not is_whole(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(sealed, name):
    (sealed / name).unlink()
    assert not is_whole(sealed)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_noticed(sealed, name):
    (sealed / name).write_bytes(FILES[name][:-1])
    assert not is_whole(sealed)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_noticed(sealed, name):
    content = bytearray(FILES[name])
    content[len(content) // 2] ^= 1
    (sealed / name).write_bytes(bytes(content))
    assert not is_whole(sealed)


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", "[1]", "null", '"x"', '{"a": 1}', '{"a": [1, 2, 3]}', "\x00"]
)
def test_a_broken_manifest_seals_nothing(sealed, content):
    (sealed / "manifest.json").write_text(content)
    assert not is_whole(sealed)


def test_a_manifest_cut_anywhere_seals_nothing(sealed):
    content = (sealed / "manifest.json").read_text()
    for size in range(0, len(content) - 1, 7):
        (sealed / "manifest.json").write_text(content[:size])
        assert not is_whole(sealed)


def test_the_manifest_lists_size_and_hash_of_every_file(sealed):
    content = json.loads((sealed / "manifest.json").read_text())
    assert {name: size for name, (size, _) in content.items()} == {
        name: len(bytes_) for name, bytes_ in FILES.items()
    }
    assert {len(digest) for _, digest in content.values()} == {64}


def test_sealing_again_takes_in_what_was_added(sealed):
    (sealed / "more.json").write_text("{}")
    assert is_whole(sealed)
    seal(sealed)
    (sealed / "more.json").unlink()
    assert not is_whole(sealed)


def test_a_folder_sealed_empty_is_not_whole(tmp_path):
    seal(tmp_path)
    assert not is_whole(tmp_path)


def test_the_newest_is_told_by_its_number_not_its_name(tmp_path):
    for number in (9, 10, 100):
        seal(_checkpoint(tmp_path, number))
    assert newest_whole(tmp_path).name == "checkpoint-100"


def test_the_newest_that_is_whole_wins_over_a_newer_that_is_not(tmp_path):
    for number in (1, 2, 3, 4):
        seal(_checkpoint(tmp_path, number))
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"")
    assert newest_whole(tmp_path).name == "checkpoint-2"


def test_where_nothing_is_whole_there_is_no_newest(tmp_path):
    assert newest_whole(tmp_path) is None
    assert newest_whole(tmp_path / "nowhere") is None
    _checkpoint(tmp_path)
    assert newest_whole(tmp_path) is None


@pytest.mark.parametrize("name", ["checkpoint-best", "checkpoint-", "checkpoint-3-old", "model"])
def test_other_folders_are_no_checkpoints(tmp_path, name):
    _checkpoint(tmp_path).rename(tmp_path / name)
    seal(tmp_path / name)
    assert newest_whole(tmp_path) is None
