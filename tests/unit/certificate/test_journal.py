"""Results are computed once, in order."""

import pytest
import torch

from fewer.certificate.journal import Journal


def test_results_are_read_in_the_order_in_which_they_were_written(tmp_path):
    first = Journal(tmp_path)
    assert first.keep(lambda: 1.5) == 1.5
    stored = first.keep(lambda: {"answers": torch.arange(3)})
    second = Journal(tmp_path)
    assert second.keep(lambda: pytest.fail("computed again")) == 1.5
    assert torch.equal(second.keep(dict)["answers"], stored["answers"])
    assert second.keep(lambda: "third") == "third"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.pt", "00001.pt", "00002.pt"]


def test_what_fails_leaves_no_result(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Journal(tmp_path).keep(lambda: 1 / 0)
    assert Journal(tmp_path).keep(lambda: 2) == 2


def test_without_a_folder_nothing_is_kept(tmp_path):
    assert Journal().keep(lambda: 3) == 3
    assert not list(tmp_path.iterdir())
