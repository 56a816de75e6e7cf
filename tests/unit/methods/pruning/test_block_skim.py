import pytest
import torch

import fewer
from fewer import Trace
from fewer.methods.pruning import BlockSkim
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.block_skim import GRID
from fewer.methods.pruning.blocks import SIGHTS
from tests.contract.table import read
from tests.lessons import PHASE, lesson, rehearsal
from tests.tiny import ragged, tiny

LENGTHS = (1, 40, 2, 27, 33, 12)


def _model(backbone="bert", **settings):
    model = tiny(backbone, "QuestionAnswering")
    return fewer.attach(model, BlockSkim(**{"block": 4} | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 0}, "block is 0, wanted a multiple of 4 tokens"),
        ({"block": 30}, "block is 30, wanted a multiple of 4 tokens"),
        (
            {"threshold": -0.1},
            r"threshold is -0\.1, wanted the least chance of a block, in \[0, 1\]",
        ),
        ({"threshold": 1.1}, r"threshold is 1\.1, wanted"),
        ({"target": 0.0}, r"target is 0\.0, wanted the share of FLOPs to keep, in \(0, 1\)"),
        ({"target": 1.0}, r"target is 1\.0, wanted the share"),
        ({"alpha": -1.0}, r"alpha is -1\.0, balance 20\.0; wanted 0 or more, and more than 0"),
        ({"balance": 0.0}, r"balance 0\.0; wanted"),
        ({"sees": "all"}, "sees is 'all', wanted one of diagonal, first, whole, states"),
        ({"skimming_epochs": -1.0}, r"skimming_epochs is -1\.0, wanted 0 or more"),
        ({"training": "frozen"}, "training is 'frozen', wanted one of joint, two_stage"),
        ({"learning_rates": (1e-5,)}, "wanted that of the model and that of the predictors"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BlockSkim(**settings)


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_a_model_that_answers_no_questions_is_refused(task):
    with pytest.raises(ValueError, match="wanted a model of question answering, such as Auto"):
        fewer.attach(tiny(task=task), BlockSkim())


def test_together_the_model_and_the_predictors_learn_at_rates_of_their_own():
    (phase,) = BlockSkim(epochs=3, learning_rates=[1e-5, 1e-2]).phases()
    assert (phase.name, phase.apply, phase.trains, phase.epochs) == ("joint", "compact", "all", 3)
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


def test_then_both_may_learn_from_what_is_left():
    first, more = BlockSkim(training="two_stage", skimming_epochs=0.5).phases()
    assert (first.name, first.trains, first.task) == ("two_stage", "policy", False)
    assert (more.name, more.trains, more.epochs, more.task) == ("skimming", "all", 0.5, True)
    assert more.regularise
    assert more.calibrate


def test_blocks_leave_in_the_second_phase_of_training_alone():
    """After the last layer nobody does: the head reads who is left."""
    model, own, batch = _opened(skimming_epochs=1)
    fewer.set_threshold(_no_dropout(model), threshold=1.0)
    _, real = read(model, batch)
    dropped = []
    for phase in own.method.phases():
        with own.policy.during(phase), fewer.record() as traces:
            model.train()(**batch)
        dropped.append(traces[0].dropped)
    assert not dropped[0].any()
    assert torch.equal(dropped[1], real.dropped)
    assert dropped[1].any()


def test_in_that_phase_the_loss_is_that_of_the_tokens_that_are_left():
    model, own, batch = _opened(skimming_epochs=1)
    fewer.set_threshold(_no_dropout(model), threshold=1.0)
    places = torch.zeros(len(LENGTHS), dtype=torch.long)  # [CLS], which never leaves
    labels = {"start_positions": places, "end_positions": places}
    with own.policy.during(own.method.phases()[1]):
        learned = model.train()(**batch, **labels)
    logits, _ = read(model.eval(), batch)
    wanted = -logits.log_softmax(1)[:, 0].mean()
    torch.testing.assert_close(learned.loss, wanted, atol=1e-5, rtol=1e-5)
    real = batch["attention_mask"] != 0
    assert learned.start_logits[real].amin() > -1e4  # what others learn from stays


@pytest.mark.parametrize(("sees", "maps"), [("diagonal", 1), ("first", 3), ("whole", 3)])
def test_each_layer_has_a_predictor_for_what_it_sees(sees, maps):
    policy = fewer.attachment(_model(sees=sees)).policy
    assert len(policy.predictors) == 3
    assert {predictor[0].in_channels for predictor in policy.predictors} == {maps * 2}


def test_rows_that_do_not_say_what_is_relevant_are_refused():
    policy = fewer.attachment(_model()).policy
    told = lesson(Trace((1, 4), torch.device("cpu")))
    with pytest.raises(ValueError, match="the batch does not say which tokens hold the answer"):
        policy.loss(told)


def test_untrained_nothing_is_skimmed():
    model = _model()
    batch = ragged(model, LENGTHS)
    assert fewer.attachment(model).policy.threshold.item() == 0
    assert torch.equal(read(model, batch)[1].layers_read, batch["attention_mask"] * 3)


def _read_in_training(model):
    with fewer.record() as traces:
        model.train()(**ragged(model, LENGTHS))
    return traces[0]


@pytest.mark.parametrize("sees", ["diagonal", "first", "whole", "states"])
def test_the_loss_reaches_predictors_queries_and_keys(sees):
    model = _model(sees=sees)
    trace = _read_in_training(model)
    relevant = (torch.arange(trace.grid[1]) == 9).long().expand(trace.grid)
    loss = fewer.attachment(model).policy.loss(lesson(trace, relevant=relevant))
    loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("predictors.0.", "predictors.2.", "layer.2.attention.self.query", "self.key"):
        assert any(part in name for name in moved)
    assert torch.isfinite(
        torch.stack([p.grad.abs().sum() for p in model.parameters() if p.grad is not None])
    ).all()


def test_a_batch_without_any_passage_teaches_nothing_and_breaks_nothing():
    """All of it is the first text: no block may leave, nobody is judged."""
    model = _model()
    ids = torch.tensor([[2, 7, 8, 3]])
    with fewer.record() as traces:
        model.train()(input_ids=ids)
    assert traces[0].predictor_outputs == []
    loss = fewer.attachment(model).policy.loss(lesson(traces[0], relevant=torch.zeros(1, 4)))
    assert loss.item() == 0
    assert read(model.eval(), {"input_ids": ids})[1].layers_read.tolist() == [[3] * 4]


class Inward(AttentionPredictor):
    """Says of a block that its chance is the share of its attention that stays within it."""

    def judge(self, blocks, wanted):
        maps = self.sight.see(blocks, wanted)
        chance = maps.mean((1, 2)).sum(1).clamp(1e-6, 1 - 1e-6)
        return torch.stack((1 - chance, chance), 1).log()


def _opened(**settings):
    """Build a model whose predictors are far apart in what they say of blocks."""
    model = _model(**settings)
    own = fewer.attachment(model)
    said = (Inward(SIGHTS[own.method.sees], own.method.block, own.shape) for _ in range(3))
    own.policy.predictors = torch.nn.ModuleList(said)
    return model, own, ragged(model, LENGTHS)


def test_a_higher_threshold_keeps_fewer_tokens():
    model, _, batch = _opened()
    kept = []
    for threshold in (0.0, *GRID, 1.0):
        fewer.set_threshold(model, threshold=threshold)
        kept.append(int(read(model, batch)[1].layers_read.sum()))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 3 * sum(LENGTHS)
    assert len(set(kept)) > 2


def _share_of(model):
    """Return what measures the share of 60 texts, without the predictors.

    They take most of the FLOPs of so small a model.
    """
    own, batch = fewer.attachment(model), ragged(model, torch.randint(20, 40, (60,)).tolist())

    def share():
        _, trace = read(model, batch)
        assert (trace.head_flops > 0).all()
        trace.head_flops = None
        return float(own.shape.share(trace))

    return share


@pytest.mark.parametrize("wanted", [0.65, 0.8, 0.9])
def test_calibration_meets_a_target_by_bisection(wanted):
    model, own, _ = _opened(target=wanted)
    share = _share_of(model)
    own.policy.calibrate(PHASE, rehearsal(share))
    assert share() == pytest.approx(wanted, abs=0.01)


def test_a_target_out_of_reach_is_said_so():
    """Layer 0 of three reads everything, and the best block of each text stays."""
    model, own, _ = _opened(target=0.1)
    share = _share_of(model)
    with pytest.warns(UserWarning, match=r"Block-Skim keeps 0\.[5-7]\d\d of the FLOPs, not the ta"):
        own.policy.calibrate(PHASE, rehearsal(share))
    eager = share()
    fewer.set_threshold(model, threshold=1.0)
    assert eager == share()  # it went as far as it could


def test_without_a_target_calibration_sets_the_threshold_of_the_method():
    _, own, _ = _opened(threshold=0.3)
    own.policy.calibrate(PHASE, rehearsal(lambda: pytest.fail("nothing to measure")))
    assert own.policy.threshold.item() == pytest.approx(0.3)


@pytest.mark.parametrize("settings", [{"threshold": 0.3}, {"target": 0.5}])
def test_before_the_phase_nothing_is_calibrated(settings):
    own = fewer.attachment(_model(**settings))
    told = rehearsal(lambda: pytest.fail("nothing to measure"), first=True)
    own.policy.calibrate(PHASE, told)
    assert own.policy.threshold.item() == 0


def test_the_dial_turns_from_keeping_all_to_the_best_block_alone():
    model, own, batch = _opened()
    dial = own.policy.dial()
    assert (dial.never, dial.grid) == (0.0, GRID)
    assert dial.value is own.policy.threshold
    assert list(GRID) == sorted(GRID)
    fewer.set_threshold(model, threshold=1.0)
    _, trace = read(model, batch)
    left = ~trace.dropped & batch["attention_mask"].bool()
    first = batch["input_ids"].eq(3).long().argmax(1)[:, None]
    column = torch.arange(trace.grid[1])
    blocks = torch.where(left & (column > first), column // 4, -1)
    assert [len(set(row.tolist()) - {-1}) for row in blocks] == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"threshold is {threshold}, wanted the least chance"):
        fewer.set_threshold(_model(), threshold=threshold)
