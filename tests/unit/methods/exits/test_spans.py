"""Exits of models that answer with a span: its start and its end."""

import copy
import math
import pickle

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.core.decision import ExitOutput
from fewer.core.policy import CalibrationData, Phase
from fewer.hf.task_heads import task_loss
from fewer.kernels.call import masked_score
from fewer.measure.scorers import make_scorer
from fewer.measure.sweep import sweep
from fewer.methods.combined import MagicPyramid, Stack
from fewer.methods.exits import PABEE, BERxiT, DeeBERT, EarlyExit, FastBERT, RightTool
from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.spans import MEASURES, Bounds
from fewer.methods.pruning import LTP, BlockSkim
from fewer.tasks import QuestionAnswering
from tests.contract.policies import Drop
from tests.contract.table import read
from tests.tiny import LENGTHS, ragged, real, text, tiny, word_tokenizer
from tests.unit.methods.exits.parts import packed, shape, span_model, view

LAYERS, WIDTH = 4, 16
TASK = "QuestionAnswering"
METHODS = {
    "early_exit": EarlyExit(),
    "right_tool": RightTool(),
    "deebert": DeeBERT(),
    "fastbert": FastBERT(),
    "pabee": PABEE(),
    "berxit": BERxiT(criterion="normalised_entropy"),
    "patient": EarlyExit(criterion="patient_confidence", patience=2),
    "some": EarlyExit(layers=(1, 3), head="linear"),
}
every_method = pytest.mark.parametrize("name", METHODS)
every_criterion = pytest.mark.parametrize("criterion", MEASURES)
PLACES = torch.tensor([[0, 0], [3, 9], [1, 1], [6, 2], [0, 4]])  # in texts of LENGTHS


def _policy(model):
    return fewer.attachment(model).policy


def _half(method, backbone="bert"):
    """Choose the threshold that parts the texts of a batch most."""
    model = span_model(method, backbone=backbone)
    batch, dial = ragged(model), _policy(model).dial()

    def depths(threshold):
        dial.value.fill_(threshold)
        return len(set(read(model, batch)[1].layers_read[:, 0].tolist()))

    dial.value.fill_(max((*dial.grid, 0.05, 0.99), key=depths))
    return model


def _depth(trace):
    return trace.layers_read[:, 0].tolist()


def _bounds(logits, rows, grid):
    return Bounds.of(ExitOutput(0, torch.tensor(rows), torch.tensor(logits)), grid)


# two texts of a batch of three, of 1 and of 3 tokens, in four columns
SAID = [[5.0, -7.0], [0.0, 2.0], [math.log(2), 2.0], [0.0, 2.0]]
BOUNDS = _bounds(SAID, [0, 8, 9, 11], (3, 4))


def test_chances_are_of_the_tokens_of_a_text_that_are_there():
    wanted = torch.tensor([[1, 1], [1 / 4, 1 / 3], [1 / 2, 1 / 3], [1 / 4, 1 / 3]])
    torch.testing.assert_close(BOUNDS.log_p.exp(), wanted)


def test_entropies_are_averaged_and_normalised_by_the_number_of_tokens():
    """1.5 bits of the start, log2 3 of the end; a text of one token leaves no doubt."""
    mean = (1.5 * math.log(2) + math.log(3)) / 2
    assert BOUNDS.entropy[[0, 2]].tolist() == pytest.approx([0.0, mean], abs=1e-6)
    assert BOUNDS.uncertainty[[0, 2]].tolist() == pytest.approx([0.0, mean / math.log(3)], abs=1e-6)


def test_the_probability_is_that_of_the_best_start_times_that_of_the_best_end():
    assert BOUNDS.probability[[0, 2]].tolist() == pytest.approx([1.0, 1 / 2 * 1 / 3])


def test_the_best_places_are_slots_of_the_grid_and_the_first_of_equals():
    assert BOUNDS.best[[0, 2]].tolist() == [[0, 0], [9, 8]]


def test_certain_and_doubtful_answers_have_finite_measures():
    sure = _bounds([[1e6, -1e6], [-1e6, 1e6], [0.0, 0.0]], [0, 1, 2], (1, 3))
    even = _bounds([[1e6, -1e6]] * 3, [0, 1, 2], (1, 3))
    assert (sure.entropy.item(), sure.probability.item()) == (0.0, 1.0)
    assert even.uncertainty.item() == pytest.approx(1.0)
    assert even.probability.item() == pytest.approx(1 / 9)


def _measured(criterion, *said, patience=1):
    bounds = [_bounds(logits, list(range(len(logits))), (1, len(logits))) for logits in said]
    return MEASURES[criterion](bounds, patience).item()


A, B, C = [[1.0, 0.0], [0.0, 1.0]], [[4.0, 0.0], [0.0, 0.5]], [[1.0, 3.0], [0.0, 1.0]]


def test_patience_counts_exits_whose_start_and_end_were_those_of_the_one_before():
    assert [_measured("patience", *said) for said in ((A,), (A, B), (A, B, A))] == [0, 1, 2]
    assert [_measured("patience", *said) for said in ((A, B, C), (C, A, B))] == [0, 1]


def test_patient_confidence_is_the_largest_doubt_of_the_last_exits():
    doubts = [_measured("normalised_entropy", said) for said in (A, B, C)]
    for patience, wanted in ((1, doubts[2]), (2, max(doubts[1:])), (3, max(doubts))):
        assert _measured("patient_confidence", A, B, C, patience=patience) == pytest.approx(wanted)
    assert _measured("patient_confidence", A, B, patience=3) == math.inf


def test_every_criterion_but_the_learned_one_is_measured():
    assert set(MEASURES) == set(CRITERIA) - {"learned"}


@every_criterion
def test_the_thresholds_of_a_sweep_are_in_range_and_part_answers(criterion):
    dial = EarlyExit(criterion=criterion).build(shape(labels=2, answers="span", layers=6)).dial()
    for threshold in dial.grid:
        dial.check(threshold)
    assert len(set(dial.grid)) > 2


@every_method
@pytest.mark.parametrize("threshold", ["untrained", "never"])
def test_where_nobody_leaves_the_model_is_the_plain_one_bit_for_bit(name, threshold):
    never_leaves = CRITERIA[METHODS[name].criterion].never
    model = span_model(METHODS[name], None if threshold == "untrained" else never_leaves)
    batch = ragged(model)
    plain, _ = read(fewer.attach(tiny(task=TASK, layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, plain)
    assert _depth(trace) == [LAYERS] * len(LENGTHS)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("patient", "pabee")])
def test_at_the_most_eager_threshold_everybody_leaves_at_the_first_exit(name):
    model = span_model(METHODS[name], CRITERIA[METHODS[name].criterion].eager)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert torch.equal(trace.layers_read, batch["attention_mask"])
    assert torch.equal(real(logits, batch), trace.exit_outputs[0].logits)
    assert trace.head_flops.tolist() == [length * 2 * WIDTH * 2 for length in LENGTHS]


@every_method
@pytest.mark.parametrize("backbone", ["bert", "albert", "distilbert"])
def test_a_batch_equals_its_texts_one_by_one(name, backbone):
    model = _half(METHODS[name], backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert len(set(_depth(trace))) > 1
    for row, length in enumerate(LENGTHS):
        alone, alone_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row, :length], alone[0], atol=1e-5, rtol=0)
        assert _depth(alone_trace) == _depth(trace)[row : row + 1]
        assert alone_trace.head_flops.tolist() == trace.head_flops[row : row + 1].tolist()


@every_method
def test_the_answer_is_that_of_the_layer_a_text_left_after(name):
    model = _half(METHODS[name])
    batch = ragged(model)
    logits, trace = read(model, batch)
    flat, depth = logits.flatten(0, 1), trace.layers_read.flatten()
    for said in trace.exit_outputs:
        left = said.rows[depth[said.rows] == said.layer + 1]
        final = said.rows[:0] if said.final is None else said.rows[said.final]
        assert torch.equal(final, left)
        assert torch.equal(flat[left], said.logits[torch.isin(said.rows, left)])
        assert not torch.isin(said.rows, (depth <= said.layer).nonzero()).any()
    assert not trace.dropped.any()


STACKS = {
    "pyramid": MagicPyramid(pruning=LTP(final_threshold=0.2)),
    "exits first": Stack((FastBERT(), LTP(final_threshold=0.2))),
    "drops": Stack((EarlyExit(layers=(2,)), Drop(share=0.3))),
    "skim": Stack((FastBERT(), BlockSkim(block=4))),
}


def _pruned(name, backbone="bert"):
    model = _half(STACKS[name], backbone)
    for part in _policy(model).parts:
        if isinstance(part.method, BlockSkim):
            part.threshold.fill_(0.9)  # only the best blocks stay
    return model


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("backbone", ["bert", "modernbert"])
def test_no_answer_begins_or_ends_at_a_token_that_was_dropped(name, backbone):
    model = _pruned(name, backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    hidden = logits == masked_score(logits.dtype)
    assert torch.equal(hidden.any(2), trace.dropped | trace.padding)
    assert trace.dropped.any()
    ended = torch.zeros_like(trace.dropped).flatten()
    for said in trace.exit_outputs:
        if said.final is not None:
            ended[said.rows[said.final]] = True
            assert not hidden.flatten(0, 1)[said.rows[said.final]].any()
    assert ended.any()
    deepest = trace.layers_read.amax(1, keepdim=True)
    whole = (trace.layers_read == deepest) & batch["attention_mask"].bool()
    assert torch.equal(whole | trace.dropped, batch["attention_mask"].bool())


@pytest.mark.parametrize("name", STACKS)
def test_removal_played_in_memory_gives_the_same(name):
    """A text that has left is not dropped by what is decided of its tokens afterwards."""
    model = _pruned(name)
    batch = ragged(model)
    (hard, trace), (played, played_trace) = (read(model, batch, how) for how in ("compact", "mask"))
    torch.testing.assert_close(real(played, batch), real(hard, batch), atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, played_trace.layers_read)
    assert torch.equal(trace.dropped, played_trace.dropped)
    assert trace.head_flops.tolist() == played_trace.head_flops.tolist()


def test_the_dropped_are_not_part_of_what_a_text_is_certain_of():
    """Of three tokens the two alike leave doubt; without one of them there is little."""
    policy = EarlyExit(threshold=0.5).build(shape(labels=2, answers="span", width=1)).eval()
    with torch.no_grad():
        policy.heads[0].weight.fill_(1.0)
        policy.heads[0].bias.zero_()
    policy.threshold.fill_(0.5)
    tokens = packed((3, 1, 3), width=1)
    tokens = tokens.with_hidden(torch.tensor([5.0, 0.0, 5.0, 1.0, 5.0, 0.0, 5.0])[:, None])
    gone = torch.tensor([True] * 6 + [False])
    for alive, leaves in ((None, [False, True, False]), (gone, [False, True, True])):
        decision = policy.decide(view(tokens.but(alive=alive)))
        assert decision.leaves.tolist() == leaves
        there = tokens.slot if alive is None else tokens.slot[alive]
        assert torch.equal(decision.exit_outputs[0].rows, there)
        assert torch.equal(decision.exit_outputs[0].final, torch.tensor(leaves)[there // 3])


def test_in_training_mode_exits_only_speak():
    model = span_model(EarlyExit(), 1.0).train()
    with fewer.record() as traces:
        model(**ragged(model))
    (trace,) = traces
    assert _depth(trace) == [LAYERS] * len(LENGTHS)
    assert [said.final for said in trace.exit_outputs] == [None] * (LAYERS - 1)
    assert [len(said.rows) for said in trace.exit_outputs] == [sum(LENGTHS)] * (LAYERS - 1)


def test_a_target_chooses_the_threshold():
    policy = EarlyExit(target=0.7).build(shape(labels=2, answers="span"))
    phase = Phase("exits", "compact", "all", 1, 1e-3)
    share = lambda: 1 - policy.threshold.item()  # noqa: E731
    for first in (True, False):
        policy.calibrate(phase, CalibrationData(first, share, lambda: iter(())))
        assert first is (policy.threshold.item() == 0.0)
    assert policy.threshold.item() == pytest.approx(0.3, abs=0.003)


def test_a_criterion_of_whole_texts_is_refused():
    with pytest.raises(ValueError, match="criterion is 'learned', which judges whole texts, but"):
        fewer.attach(tiny(task=TASK), BERxiT())


@pytest.mark.parametrize(
    "method", [EarlyExit(head="pooled"), DeeBERT(head="attentive"), RightTool(head="shared")]
)
def test_a_head_of_whole_texts_is_refused_unless_it_is_the_papers_own(method):
    with pytest.raises(ValueError, match=f"head is '{method.head}', which makes one state"):
        fewer.attach(tiny(task=TASK), method)
    heads = [_policy(fewer.attach(tiny(task=TASK), one)).heads for one in (DeeBERT(), PABEE())]
    assert [tuple(head.weight.shape) for head in heads[0]] == [(2, WIDTH)] * 2
    assert len(heads[1]) == 2


def test_a_head_that_was_the_default_once_is_taken_where_it_is_not_used():
    old = BERxiT(criterion="normalised_entropy", head="shared")
    heads = _policy(fewer.attach(tiny(task=TASK), old)).heads
    assert [tuple(head.weight.shape) for head in heads] == [(2, WIDTH)] * 2


@pytest.mark.parametrize("method", [METHODS["right_tool"], STACKS["pyramid"]])
def test_saved_copied_and_pickled_models_are_the_same_model(method, tmp_path):
    model = _half(method)
    batch = ragged(model)
    wanted, trace = read(model, batch)
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).method == method
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        logits, other_trace = read(other, batch)
        assert torch.equal(logits, wanted)
        assert _depth(other_trace) == _depth(trace)


def test_texts_leave_earlier_the_more_eager_the_threshold():
    model = span_model(STACKS["pyramid"])
    batch = ragged(model, (3, 12, 2, 7, 5, 9, 4, 8))
    depths = []
    for threshold in (0.0, 0.3, 0.7, 0.9, 1.0):
        fewer.set_threshold(model, threshold=threshold)
        depths.append(read(model, batch)[1].layers_read.amax(1).sum().item())
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == 8 * LAYERS > depths[2] > depths[-1]


def test_a_loss_of_the_model_is_that_of_the_answers_given():
    model = _half(EarlyExit())
    batch = ragged(model)
    starts, ends = PLACES.unbind(1)
    with torch.no_grad():
        output = model(**batch, start_positions=starts, end_positions=ends)
    logits = torch.stack((output.start_logits, output.end_logits), -1)
    assert output.loss.item() == pytest.approx(task_loss(None, "span")(logits, PLACES).item())


def test_a_sweep_scores_questions_at_every_threshold():
    contexts = ["w9 w10", " ".join(f"w{n}" for n in range(30)), "w30 w31 w32", "w40"]
    answers = [{"text": [one.split()[0]], "answer_start": [0]} for one in contexts]
    rows = Dataset.from_dict(
        {"id": list("abcd"), "question": ["w1"] * 4, "context": contexts, "answers": answers}
    )
    task, tokenizer = QuestionAnswering(), word_tokenizer()
    encoded = task.encode(rows, tokenizer, max_length=24, stride=6, training=False)
    points = sweep(
        span_model(EarlyExit()),
        encoded,
        tokenizer,
        make_scorer(task, rows),
        thresholds=(0.3, 0.8, 1.0),
    )
    flops = [point["flops_per_text"] for point in points]
    assert flops[1:] == sorted(flops[1:], reverse=True)
    assert points[0]["layers_read"] == LAYERS
    assert points[-1]["exits"] == [4, *[0] * (LAYERS - 1)]
    assert all(set(point["metrics"]) == {"f1", "exact_match"} for point in points)
