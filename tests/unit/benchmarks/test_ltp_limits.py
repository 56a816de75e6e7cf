"""Which answers cannot be given, because their ends are pruned."""

import torch

from benchmarks.ltp_limits import count_lost
from fewer.core.decision import Decision
from fewer.core.trace import DecisionRecord, Trace


def test_a_window_is_lost_if_an_end_of_its_answer_is_pruned():
    trace = Trace((3, 4), torch.device("cpu"), real=torch.arange(12))
    keep = torch.ones(12, dtype=torch.bool)
    keep[[2, 6]] = False  # column 2 of the first two windows
    texts = torch.arange(3).repeat_interleave(4)
    trace.decisions.append(DecisionRecord(torch.arange(12), texts, Decision.keep(keep)))
    spans = [(1, 2), (1, 3), (0, 0)]  # an end; within; no answer
    assert count_lost([trace], spans) == (2, 1)
    assert count_lost([trace, trace], spans * 2) == (4, 2)
