import pytest
import torch
from torch.nn.functional import cross_entropy

from fewer import Phase, Trace
from tests.batches import calibration_data, training_batch

PHASE = Phase("any", "compact", "all", 1, 1e-3, part=(1,))


def test_losses_are_those_of_each_text_with_their_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    labels = torch.tensor([0, 3, 2])
    batch = training_batch(Trace((3, 1), torch.device("cpu")), logits, labels)
    expected = cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(batch.losses, expected)
    batch.losses[1].backward()
    assert logits.grad.abs().sum(1).gt(0).tolist() == [False, True, False]


def test_without_labels_there_are_no_losses():
    batch = training_batch(Trace((3, 1), torch.device("cpu")))
    with pytest.raises(ValueError, match="labels"):
        _ = batch.losses


@pytest.mark.parametrize("target", [0.9, 0.5, 0.13])
def test_bisection_finds_the_setting_of_a_ratio(target):
    setting = []
    data = calibration_data(lambda: 1 / (1 + setting[-1]))
    gap = data.bisect(target, setting.append, 1e-3, 1e3, 1.0)
    assert abs(gap) < 0.002
    assert 1 / (1 + setting[-1]) == pytest.approx(target, abs=0.002)
    assert len(setting) < 20


def test_a_ratio_that_cannot_be_met_is_returned_with_its_gap():
    assert calibration_data(lambda: 0.7).bisect(0.5, lambda _: None, 0.1, 10, 1) == pytest.approx(
        0.2
    )


def test_measures_run_real_decisions_and_batches_observe():
    phases = []

    def note(phase):
        phases.append((phase.apply, phase.exits, phase.part))
        return 0.5

    data = calibration_data(phase=PHASE)
    data = type(data)(True, PHASE, lambda phase: iter([note(phase)]), note, note)
    assert data.flops_ratio() == data.score() == next(data.batches()) == 0.5
    assert data.of_part(2).flops_ratio() == 0.5
    real = ("compact", True)
    assert phases == [(*real, (1,)), (*real, (1,)), ("observe", False, (1,)), (*real, (2,))]
    assert next(data.real_batches()) == 0.5
    assert phases[-1] == (*real, (1,))
