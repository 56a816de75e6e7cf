import json

import pytest

from fewer._files.manifest import MANIFEST, check_files, is_whole, write_manifest

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
    write_manifest(place)
    return place


def test_a_sealed_folder_is_whole(sealed):
    assert is_whole(sealed)
    assert {file.name for file in sealed.iterdir()} == {
        "model.safetensors",
        "optimizer.pt",
        "nested",
        MANIFEST,
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
def test_a_broken_manifest_is_not_valid(sealed, content):
    (sealed / MANIFEST).write_text(content)
    assert not is_whole(sealed)


def test_a_truncated_manifest_is_not_valid(sealed):
    content = (sealed / MANIFEST).read_text()
    for size in range(0, len(content) - 1, 7):
        (sealed / MANIFEST).write_text(content[:size])
        assert not is_whole(sealed)


def test_the_manifest_lists_size_and_hash_of_every_file(sealed):
    content = json.loads((sealed / MANIFEST).read_text())
    assert {name: size for name, (size, _) in content.items()} == {
        name: len(bytes_) for name, bytes_ in FILES.items()
    }
    assert {len(digest) for _, digest in content.values()} == {64}


def test_sealing_again_takes_in_what_was_added(sealed):
    (sealed / "more.json").write_text("{}")
    assert is_whole(sealed)
    write_manifest(sealed)
    (sealed / "more.json").unlink()
    assert not is_whole(sealed)


def test_a_folder_sealed_empty_is_not_whole(tmp_path):
    write_manifest(tmp_path)
    assert not is_whole(tmp_path)


def test_a_changed_or_missing_file_is_named(sealed):
    check_files(sealed)
    (sealed / "optimizer.pt").write_bytes(b"p" * 1000)
    (sealed / "model.safetensors").unlink()
    check_files(sealed, ["nested/rng.pth", "not there at all"])
    for name in ("optimizer.pt", "model.safetensors"):
        with pytest.raises(ValueError, match=name):
            check_files(sealed, [name])


def test_a_folder_without_a_manifest_is_not_checked(tmp_path):
    check_files(_checkpoint(tmp_path), FILES)
    assert not (tmp_path / "checkpoint-1" / MANIFEST).exists()


@pytest.mark.parametrize("name", ["/etc/hostname", "../checkpoint-2/model.safetensors"])
def test_a_manifest_that_names_files_elsewhere_is_refused(sealed, name):
    write_manifest(_checkpoint(sealed.parent, 2))
    (sealed / MANIFEST).write_text(json.dumps({name: [2000, "0"]}))
    assert not is_whole(sealed)
    with pytest.raises(ValueError, match=MANIFEST):
        check_files(sealed)
