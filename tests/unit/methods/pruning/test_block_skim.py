import pytest
import torch

import fewer
from fewer import Trace
from fewer.hf.attach import running
from fewer.methods.pruning import BlockSkim
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.block_skim import GRID, _is_best
from fewer.methods.pruning.blocks import SCOPES
from tests.batches import PHASE, calibration_data, training_batch
from tests.contract.table import read
from tests.tiny import ragged, tiny

LENGTHS = (1, 40, 2, 27, 33, 12)


def _model(backbone="bert", **settings):
    model = tiny(backbone, "QuestionAnswering")
    return fewer.attach(model, BlockSkim(**{"block": 4} | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 0}, "block"),
        ({"block": 30}, "block"),
        (
            {"threshold": -0.1},
            "threshold",
        ),
        ({"threshold": 1.1}, "threshold"),
        ({"target": 0.0}, "target"),
        ({"target": 1.0}, "target"),
        ({"alpha": -1.0}, "alpha"),
        ({"balance": 0.0}, "balance"),
        ({"sees": "all"}, "sees"),
        ({"skimming_epochs": -1.0}, "skimming_epochs"),
        ({"training": "frozen"}, "training"),
        ({"learning_rates": (1e-5,)}, "learning_rates"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BlockSkim(**settings)


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_a_model_of_another_task_is_refused(task):
    with pytest.raises(ValueError, match=r"question answering.*AutoModelForQuestionAnswering"):
        fewer.attach(tiny(task=task), BlockSkim())


def test_together_the_model_and_the_predictors_learn_at_rates_of_their_own():
    (phase,) = BlockSkim(epochs=3, learning_rates=[1e-5, 1e-2]).phases()
    assert (phase.name, phase.apply, phase.trains, phase.epochs) == ("joint", "observe", "all", 3)
    assert (phase.learning_rate, phase.policy_learning_rate) == (1e-5, 1e-2)
    assert phase.task
    assert phase.regularise
    assert phase.calibrate


def test_afterwards_the_predictors_learn_alone():
    (phase,) = BlockSkim(training="two_stage").phases()
    assert (phase.name, phase.trains, phase.task) == ("two_stage", "policy", False)


def _no_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_then_both_may_learn_with_blocks_pruned():
    first, second = BlockSkim(training="two_stage", skimming_epochs=0.5).phases()
    assert (first.name, first.trains, first.task) == ("two_stage", "policy", False)
    assert (second.name, second.trains, second.epochs, second.task) == (
        "skimming",
        "all",
        0.5,
        True,
    )
    assert (first.apply, second.apply) == ("observe", "compact")
    assert second.regularise
    assert second.calibrate


def test_blocks_are_pruned_in_the_second_phase_of_training_alone():
    """After the last layer none is: the head reads the tokens that are left."""
    model, attached, batch = _opened(skimming_epochs=1)
    fewer.set_threshold(_no_dropout(model), threshold=1.0)
    _, real = read(model, batch)
    dropped = []
    for phase in attached.method.phases():
        with running(model, phase), fewer.record() as traces:
            model.train()(**batch)
        dropped.append(traces[0].dropped)
    assert not dropped[0].any()
    assert torch.equal(dropped[1], real.dropped)
    assert dropped[1].any()


def test_in_that_phase_the_loss_is_that_of_the_remaining_tokens():
    model, attached, batch = _opened(skimming_epochs=1)
    fewer.set_threshold(_no_dropout(model), threshold=1.0)
    places = torch.zeros(len(LENGTHS), dtype=torch.long)  # [CLS], which is never pruned
    labels = {"start_positions": places, "end_positions": places}
    with running(model, attached.method.phases()[1]):
        learned = model.train()(**batch, **labels)
    logits, _ = read(model.eval(), batch)
    expected = -logits.log_softmax(1)[:, 0].mean()
    torch.testing.assert_close(learned.loss, expected, atol=1e-5, rtol=1e-5)
    real = batch["attention_mask"] != 0
    assert learned.start_logits[real].amin() > -1e4  # what others learn from stays


@pytest.mark.parametrize(("sees", "maps"), [("diagonal", 1), ("first", 3), ("whole", 3)])
def test_each_layer_has_a_predictor_for_what_it_sees(sees, maps):
    policy = fewer.attachment(_model(sees=sees)).policy
    assert len(policy.predictors) == 3
    assert {predictor[0].in_channels for predictor in policy.predictors} == {maps * 2}


def test_rows_without_marks_of_relevant_tokens_are_refused():
    policy = fewer.attachment(_model()).policy
    batch = training_batch(Trace((1, 4), torch.device("cpu")))
    with pytest.raises(ValueError, match="the batch must mark the tokens of the answer"):
        policy.loss(batch)


def test_untrained_nothing_is_skimmed():
    model = _model()
    batch = ragged(model, LENGTHS)
    assert fewer.attachment(model).policy.threshold.item() == 0
    assert torch.equal(read(model, batch)[1].layers_read, batch["attention_mask"] * 3)


def _read_in_training(model):
    phase = fewer.attachment(model).method.phases()[0]
    with running(model, phase), fewer.record() as traces:
        model.train()(**ragged(model, LENGTHS))
    return traces[0]


@pytest.mark.parametrize("sees", ["diagonal", "first", "whole", "states"])
def test_the_loss_reaches_predictors_queries_and_keys(sees):
    model = _model(sees=sees)
    trace = _read_in_training(model)
    relevant = (torch.arange(trace.grid[1]) == 9).long().expand(trace.grid)
    loss = fewer.attachment(model).policy.loss(training_batch(trace, relevant=relevant))
    loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("predictors.0.", "predictors.2.", "layer.2.attention.self.query", "self.key"):
        assert any(part in name for name in learned)
    assert torch.isfinite(
        torch.stack([p.grad.abs().sum() for p in model.parameters() if p.grad is not None])
    ).all()


def test_a_batch_without_any_passage_has_no_loss():
    """All of it is the first text: no block may be pruned, none is scored."""
    model = _model()
    ids = torch.tensor([[2, 7, 8, 3]])
    with fewer.record() as traces:
        model.train()(input_ids=ids)
    assert traces[0].predictor_outputs == []
    loss = fewer.attachment(model).policy.loss(
        training_batch(traces[0], relevant=torch.zeros(1, 4))
    )
    assert loss.item() == 0
    assert read(model.eval(), {"input_ids": ids})[1].layers_read.tolist() == [[3] * 4]


class Inward(AttentionPredictor):
    """Predicts the share of a block's attention that stays within it."""

    def score_blocks(self, blocks, index, hints=None):
        maps = self.scope.form(blocks, index)
        share = maps.mean((1, 2)).sum(1).clamp(1e-6, 1 - 1e-6)
        return torch.stack((1 - share, share), 1).log()


def _opened(**settings):
    """Build a model whose predictors score blocks far apart."""
    model = _model(**settings)
    attached = fewer.attachment(model)
    predictors = (
        Inward(SCOPES[attached.method.sees], attached.method.block, attached.spec) for _ in range(3)
    )
    attached.policy.predictors = torch.nn.ModuleList(predictors)
    return model, attached, ragged(model, LENGTHS)


def test_a_higher_threshold_keeps_fewer_tokens():
    model, _, batch = _opened()
    counts = []
    for threshold in (0.0, *GRID, 1.0):
        fewer.set_threshold(model, threshold=threshold)
        counts.append(int(read(model, batch)[1].layers_read.sum()))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 3 * sum(LENGTHS)
    assert len(set(counts)) > 2


def _share_of(model):
    """Return what measures the share of 60 texts, without the predictors.

    They take most of the FLOPs of so small a model.
    """
    attached, batch = fewer.attachment(model), ragged(model, torch.randint(20, 40, (60,)).tolist())

    def share():
        _, trace = read(model, batch)
        assert (trace.head_flops > 0).all()
        trace.head_flops = None
        return float(attached.spec.flops_ratio(trace))

    return share


@pytest.mark.parametrize("target", [0.65, 0.8, 0.9])
def test_calibration_meets_a_target_by_bisection(target):
    model, attached, _ = _opened(target=target)
    share = _share_of(model)
    attached.policy.calibrate(PHASE, calibration_data(share))
    assert share() == pytest.approx(target, abs=0.01)


def test_a_target_out_of_reach_is_warned_of():
    """Layer 0 of three reads everything, and the best block of each text stays."""
    model, attached, _ = _opened(target=0.1)
    share = _share_of(model)
    with pytest.warns(UserWarning, match=r"Block-Skim keeps 0\.[5-7]\d\d of the FLOPs, not the ta"):
        attached.policy.calibrate(PHASE, calibration_data(share))
    eager = share()
    fewer.set_threshold(model, threshold=1.0)
    assert eager == share()  # it went as far as it could


def test_without_a_target_calibration_sets_the_threshold_of_the_method():
    _, attached, _ = _opened(threshold=0.3)
    attached.policy.calibrate(PHASE, calibration_data(lambda: pytest.fail("no ratio is needed")))
    assert attached.policy.threshold.item() == pytest.approx(0.3)


@pytest.mark.parametrize("settings", [{"threshold": 0.3}, {"target": 0.5}])
def test_before_the_phase_nothing_is_calibrated(settings):
    attached = fewer.attachment(_model(**settings))
    data = calibration_data(lambda: pytest.fail("no ratio is needed"), first=True)
    attached.policy.calibrate(PHASE, data)
    assert attached.policy.threshold.item() == 0


def test_one_training_serves_all_targets_unless_it_skims():
    for epochs in (0.0, 0.5):
        method = BlockSkim(target=0.5, skimming_epochs=epochs)
        attached = fewer.attachment(fewer.attach(tiny(task="QuestionAnswering"), method))
        assert attached.policy.operating_points().one_training is (epochs == 0)


def test_operating_points_run_from_all_blocks_to_the_best_alone():
    model, attached, batch = _opened()
    points = attached.policy.operating_points()
    assert (points.never, points.path) == (0.0, GRID)
    assert points.value is attached.policy.threshold
    assert list(GRID) == sorted(GRID)
    fewer.set_threshold(model, threshold=1.0)
    _, trace = read(model, batch)
    remaining = ~trace.dropped & batch["attention_mask"].bool()
    first = batch["input_ids"].eq(3).long().argmax(1)[:, None]
    column = torch.arange(trace.grid[1])
    blocks = torch.where(remaining & (column > first), column // 4, -1)
    assert [len(set(row.tolist()) - {-1}) for row in blocks] == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        fewer.set_threshold(_model(), threshold=threshold)


def test_of_blocks_that_score_alike_the_first_stays():
    scores, text = torch.tensor([0.5, 0.5, 0.2, 0.1, 0.3, 0.3]), torch.tensor([0, 0, 0, 2, 3, 3])
    assert _is_best(scores, text, 5).tolist() == [True, False, False, True, True, False]
