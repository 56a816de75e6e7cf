from fewer import LTP, MagicPyramid
from fewer.hf.side_file import method_to
from fewer.methods.pruning import BlockSkim
from fewer.report.settings import group_rows
from tests.unit.measure.results import result


def test_a_nested_method_is_labelled_by_its_non_default_arguments():
    rows = [
        result(method=method_to(MagicPyramid(pruning=LTP(target=target)))) for target in (0.4, 0.6)
    ]
    first, second = (block.label for block in group_rows(rows))
    assert first.startswith("MagicPyramid(pruning=LTP(target=0.4)")
    assert second.startswith("MagicPyramid(pruning=LTP(target=0.6)")


def test_a_row_at_another_threshold_is_labelled_by_it():
    method, targeted = (
        method_to(BlockSkim(threshold=0.05, target=target)) for target in (None, 0.5)
    )
    rows = [result(method=method, threshold=ran) for ran in (0.7, 0.9, None)]
    labels = [block.label for block in group_rows([*rows, result(method=targeted)])]
    assert labels == [
        "BlockSkim(threshold=0.7)",
        "BlockSkim(threshold=0.9)",
        "BlockSkim(threshold=0.05)",
        "BlockSkim(target=0.5)",  # which has chosen a threshold: not 0.05
    ]


def test_an_unknown_method_is_labelled_by_its_name():
    inside = [{"name": "gone", "args": {"a": number}} for number in (1, 2)]
    rows = [
        result(method={"name": "stack", "args": {"x": nested, "n": i}})
        for i, nested in enumerate(inside)
    ]
    assert "x=gone" in next(iter(group_rows(rows))).label


def test_a_setting_that_an_older_row_lacks_has_its_default():
    before = {"name": "block_skim", "args": {"threshold": 0.5}}  # there was no prescreen
    same, other = (
        method_to(BlockSkim(threshold=0.5, sees="states", prescreen=prescreen))
        for prescreen in (False, True)
    )
    old, _, new = group_rows([result(method=method) for method in (before, same, other)])
    assert old.label == "BlockSkim(sees=diagonal, prescreen=False)"
    assert new.label == "BlockSkim(sees=states, prescreen=True)"
    defaults = method_to(BlockSkim(threshold=0.5))
    assert len(group_rows([result(method=before), result(method=defaults)])) == 1
