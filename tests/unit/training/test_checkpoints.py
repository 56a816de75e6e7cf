import pytest

from fewer.training.checkpoints import newest_whole, write_manifest


def _checkpoint(folder, number=1):
    place = folder / f"checkpoint-{number}"
    place.mkdir()
    for name in ("model.safetensors", "optimizer.pt"):
        (place / name).write_bytes(b"w" * 2000)
    return place


def test_the_newest_has_the_highest_number_not_the_last_name(tmp_path):
    for number in (9, 10, 100):
        write_manifest(_checkpoint(tmp_path, number))
    assert newest_whole(tmp_path).name == "checkpoint-100"


def test_the_newest_complete_checkpoint_wins_over_a_newer_incomplete_one(tmp_path):
    for number in (1, 2, 3, 4):
        write_manifest(_checkpoint(tmp_path, number))
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"")
    assert newest_whole(tmp_path).name == "checkpoint-2"


def test_without_a_complete_checkpoint_there_is_no_newest(tmp_path):
    assert newest_whole(tmp_path) is None
    assert newest_whole(tmp_path / "nowhere") is None
    _checkpoint(tmp_path)
    assert newest_whole(tmp_path) is None


@pytest.mark.parametrize("name", ["checkpoint-best", "checkpoint-", "checkpoint-3-old", "model"])
def test_other_folders_are_no_checkpoints(tmp_path, name):
    _checkpoint(tmp_path).rename(tmp_path / name)
    write_manifest(tmp_path / name)
    assert newest_whole(tmp_path) is None
