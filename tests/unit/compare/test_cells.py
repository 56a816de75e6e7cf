import torch

from fewer.compare.cells import Cells, Key, Results


def test_a_cell_counts_once_both_files_are_there(tmp_path):
    cells, key = Cells(tmp_path), Key("ltp", 0.5, 42)
    assert key not in cells
    torch.save(torch.ones(1), tmp_path / f"{key.name}.pt")  # a kill between the two
    assert key not in cells
    results = Results(torch.zeros(3, 2), torch.ones(3), torch.ones(3))
    cells.store(key, {"score": 1.0}, results)
    assert key in cells
    assert cells.read(key) == {"score": 1.0}
    assert torch.equal(cells.results(key).answers, torch.zeros(3, 2))


def test_answers_of_tags_and_questions_are_words(tmp_path):
    cells, key = Cells(tmp_path), Key("tokee", None, 1)
    cells.store(key, {}, Results([["O", "B-PER"], ["O"]], torch.ones(2), torch.ones(2)))
    assert cells.results(key).answers == [["O", "B-PER"], ["O"]]


def test_names_tell_arms_targets_and_seeds_apart():
    keys = [Key("a", None, 1), Key("a", 0.5, 1), Key("a", 0.5, 2), Key("b", 0.5, 1)]
    assert len({key.name for key in keys}) == 4
