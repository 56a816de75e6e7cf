"""Block-Skim that begins before the first layer, and that learns from the model as it was."""

import pytest
import torch

import fewer
from fewer.core.decision import ExitOutput
from fewer.core.learning import TeacherOutput
from fewer.core.trace import Trace
from fewer.hf.attach import running
from fewer.methods.pruning import BlockSkim
from fewer.methods.pruning.predictor import Predictor
from tests.batches import calibration_data, training_batch
from tests.contract.table import read
from tests.tiny import ragged, tiny

LENGTHS = (1, 40, 2, 27, 33, 12)


def _model(**settings):
    model = tiny("bert", "QuestionAnswering")
    chosen = {"block": 4, "sees": "states", "prescreen": True} | settings
    return fewer.attach(model, BlockSkim(**chosen)).eval()


@pytest.mark.parametrize("sees", ["diagonal", "first", "whole"])
def test_before_the_first_layer_there_is_no_attention_to_see(sees):
    with pytest.raises(ValueError, match="sees must be 'states' with prescreen"):
        BlockSkim(prescreen=True, sees=sees)


def test_blocks_leave_before_the_first_layer():
    model = _model()
    batch = ragged(model, LENGTHS)
    _, dense = read(model, batch)
    assert torch.equal(dense.layers[0].keys.long(), torch.tensor(LENGTHS))
    fewer.set_threshold(model, threshold=1.0)
    _, eager = read(model, batch)
    assert (eager.layers[0].keys <= dense.layers[0].keys).all()
    assert eager.layers[0].keys.sum() < dense.layers[0].keys.sum()
    assert next(output.layer for output in eager.predictor_outputs) == -1


class Told(Predictor):
    """Scores blocks as it is given, and keeps the hints that it was told."""

    def __init__(self, odds=None):
        super().__init__()
        self.odds, self.told = odds, None

    def score_blocks(self, blocks, index, hints=None):
        self.told = hints
        odds = torch.full((len(index),), 0.25) if self.odds is None else self.odds[: len(index)]
        return torch.stack((torch.zeros_like(odds), odds), 1)

    def flops(self, blocks, index):
        return torch.zeros(blocks.tokens.grid[0])


def test_each_predictor_is_told_the_log_odds_of_the_one_before_it():
    model = _model()
    policy = fewer.attachment(model).policy
    policy.first_predictor = Told(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    policy.predictors = torch.nn.ModuleList([Told(), Told(), Told()])
    ids = torch.tensor([[2, 7, 3, 9, 8, 11, 12, 13, 14, 15, 16, 3]])
    read(model, {"input_ids": ids})
    assert policy.first_predictor.told.shape == (12, 3)
    told = policy.predictors[0].told[:, 0].tolist()
    assert told == [1.0] * 4 + [2.0] * 4 + [3.0] * 4  # the question shares a block, and its odds
    assert policy.predictors[1].told[:, 0].unique().tolist() == [0.25]


def test_words_are_counted_once_before_training():
    model = _model()
    attached = fewer.attachment(model)
    batch = ragged(model, LENGTHS)

    def batches():
        with running(model, attached.method.phases()[0]), torch.no_grad():
            model(**batch)
        yield training_batch(Trace((1, 1), torch.device("cpu")))

    attached.policy.calibrate(
        attached.method.phases()[0], calibration_data(batches=batches, first=True)
    )
    idf = attached.policy.idf.clone()
    assert (idf > 0).any()
    again = calibration_data(batches=lambda: pytest.fail("counted twice"), first=True)
    attached.policy.calibrate(attached.method.phases()[0], again)
    assert torch.equal(attached.policy.idf, idf)


def test_with_distil_the_model_as_it_was_teaches_wherever_weights_learn():
    together, skimming = BlockSkim(distil=1, skimming_epochs=1).phases()
    for phase in (together, skimming):
        assert phase.teacher
        assert not phase.task
    alone, _ = BlockSkim(distil=1, training="two_stage", skimming_epochs=1).phases()
    assert not alone.teacher  # the model is frozen, and teaches itself
    assert not alone.task


def _trace(*outputs):
    trace = Trace((1, 8), torch.device("cpu"), real=torch.arange(8))
    trace.predictor_outputs += outputs
    return trace


def test_blocks_are_as_relevant_as_the_teacher_finds_it_likely_that_an_answer_is_there():
    policy = fewer.attachment(_model(distil=1, alpha=1.0, balance=1.0)).policy
    starts = torch.tensor([0.05] * 4 + [0.2, 0.5, 0.05, 0.05])
    ends = torch.tensor([0.02] * 4 + [0.02, 0.02, 0.86, 0.02])
    answers = torch.stack((starts, ends), -1).log()[None]
    logits = torch.tensor([[0.0, 1.0], [1.0, -1.0]], requires_grad=True)
    trace = _trace(ExitOutput(0, torch.tensor([0, 1]), logits))
    batch = training_batch(trace, answers)  # nobody teaches: its own answers count, no label does
    log_p = logits.detach().log_softmax(-1)
    relevant = torch.tensor([0.2, 0.92])  # the larger of how likely start and end are
    expected = -(relevant * log_p[:, 1] + (1 - relevant) * log_p[:, 0]).mean()
    assert policy.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    teacher = TeacherOutput(answers, trace)
    taught = training_batch(trace, torch.zeros(1, 8, 2), teacher=teacher)
    even = torch.full((8,), 1 / 8).log()
    distance = -(torch.stack((starts, ends)) * even).sum(-1).mean()
    assert policy.loss(taught).item() == pytest.approx((expected + distance).item(), rel=1e-5)


def test_evidence_is_relevant_beside_what_the_teacher_says():
    policy = fewer.attachment(_model(distil=1, evidence=True)).policy
    answers = torch.full((1, 8, 2), 1 / 8).log()
    marks = torch.tensor([[1, 0, 0, 0, 0, 2, 2, 0]])
    batch = training_batch(_trace(), answers, relevant=marks)
    learned = policy._learned(batch)
    torch.testing.assert_close(policy._relevance(batch, learned), torch.tensor([0.5, 1.0]))
    plain = fewer.attachment(_model(distil=1)).policy
    torch.testing.assert_close(plain._relevance(batch, learned), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="must mark the tokens"):
        policy._relevance(training_batch(_trace(), answers), learned)


def test_labels_have_the_share_that_the_teacher_leaves():
    policy = fewer.attachment(_model(distil=0.25, alpha=1.0, balance=1.0)).policy
    teaching = torch.tensor([[[0.5, 0.1]] * 1 + [[0.1, 0.1]] * 4 + [[0.1, 0.5]] * 1]).log()
    trace = Trace((1, 6), torch.device("cpu"), real=torch.arange(6))
    labels = torch.tensor([[1, 2]])
    teacher = TeacherOutput(teaching, trace)
    batch = training_batch(trace, torch.zeros(1, 6, 2), labels, teacher=teacher)
    starts = [0.125, 0.775, 0.025, 0.025, 0.025, 0.025]  # a quarter is the teacher's
    ends = [0.025, 0.025, 0.775, 0.025, 0.025, 0.125]
    torch.testing.assert_close(policy._learned(batch), torch.tensor([[starts, ends]]))
    with pytest.raises(ValueError, match="the batch must have labels with distil below 1"):
        policy.loss(training_batch(trace, torch.zeros(1, 6, 2)))


def test_without_a_balance_relevant_blocks_weigh_as_much_as_the_others():
    policy = fewer.attachment(_model(balance=None, alpha=1.0)).policy
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    trace = Trace((1, 16), torch.device("cpu"), real=torch.arange(16))
    trace.predictor_outputs.append(ExitOutput(0, torch.arange(4), logits))
    relevant = torch.zeros(1, 16, dtype=torch.long)
    relevant[0, 1] = 1
    loss = policy.loss(training_batch(trace, relevant=relevant))
    log_p = logits.log_softmax(-1)
    expected = -(log_p[0, 1] + log_p[1:, 0].mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_predictors_are_judged_from_before_the_first_layer_on():
    policy = fewer.attachment(_model()).policy
    trace = _trace(ExitOutput(-1, torch.tensor([0, 1]), torch.zeros(2, 2)))
    relevant = torch.tensor([[0, 0, 0, 0, 0, 1, 0, 0]])
    (result,) = policy.predictor_results(trace, relevant)
    assert result.layer == -1
    assert result.matters.tolist() == [0, 1]
