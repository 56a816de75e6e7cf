"""Exits of models that answer with a span: its start and its end."""

import copy
import math
import pickle

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.core.cost import Task
from fewer.core.decision import ExitOutput
from fewer.hf.attach import running
from fewer.hf.task_heads import SpanHead
from fewer.kernels.call import masked_score
from fewer.measure.scorers import make_scorer
from fewer.measure.sweep import sweep
from fewer.methods.combined import MagicPyramid, Stack
from fewer.methods.exits import PABEE, BERxiT, DeeBERT, EarlyExit, FastBERT, RightTool
from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.spans import MEASURES, Bounds
from fewer.methods.pruning import LTP, BlockSkim
from fewer.tasks import QuestionAnswering
from tests.batches import calibration_data
from tests.contract.policies import Drop
from tests.contract.table import read
from tests.tiny import LENGTHS, ragged, real, text, tiny, word_tokenizer
from tests.unit.methods.exits.parts import packed, span_model, spec, view

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
SPANS = torch.tensor([[0, 0], [3, 9], [1, 1], [6, 2], [0, 4]])  # in texts of LENGTHS


def _policy(model):
    return fewer.attachment(model).policy


def _half_open(method, backbone="bert"):
    """Choose the threshold at which a batch's texts exit after the most different layers."""
    model = span_model(method, backbone=backbone)
    batch, points = ragged(model), _policy(model).operating_points()
    points = points.parts[0] if points.parts else points  # the exits of a stack

    def depths(threshold):
        points.value.fill_(threshold)
        return len(set(read(model, batch)[1].layers_read[:, 0].tolist()))

    points.value.fill_(max((*points.path, 0.05, 0.99), key=depths))
    return model


def _depth(trace):
    return trace.layers_read[:, 0].tolist()


def _bounds(logits, rows, grid):
    return Bounds.of(ExitOutput(0, torch.tensor(rows), torch.tensor(logits)), grid)


# two texts of a batch of three, of 1 and of 3 tokens, in four columns
LOGITS = [[5.0, -7.0], [0.0, 2.0], [math.log(2), 2.0], [0.0, 2.0]]
BOUNDS = _bounds(LOGITS, [0, 8, 9, 11], (3, 4))


def test_probabilities_are_over_the_tokens_of_a_text():
    expected = torch.tensor([[1, 1], [1 / 4, 1 / 3], [1 / 2, 1 / 3], [1 / 4, 1 / 3]])
    torch.testing.assert_close(BOUNDS.log_p.exp(), expected)


def test_entropies_are_averaged_and_normalised_by_the_number_of_tokens():
    """1.5 bits of the start, log2 3 of the end; a text of one token has no entropy."""
    mean = (1.5 * math.log(2) + math.log(3)) / 2
    assert BOUNDS.entropy[[0, 2]].tolist() == pytest.approx([0.0, mean], abs=1e-6)
    assert BOUNDS.uncertainty[[0, 2]].tolist() == pytest.approx([0.0, mean / math.log(3)], abs=1e-6)


def test_the_probability_is_that_of_the_best_start_times_that_of_the_best_end():
    assert BOUNDS.probability[[0, 2]].tolist() == pytest.approx([1.0, 1 / 2 * 1 / 3])


def test_the_best_bounds_are_slots_of_the_grid_and_the_first_of_equals():
    assert BOUNDS.best[[0, 2]].tolist() == [[0, 0], [9, 8]]


def test_certain_and_uncertain_bounds_have_finite_measures():
    certain = _bounds([[1e6, -1e6], [-1e6, 1e6], [0.0, 0.0]], [0, 1, 2], (1, 3))
    uniform = _bounds([[1e6, -1e6]] * 3, [0, 1, 2], (1, 3))
    assert (certain.entropy.item(), certain.probability.item()) == (0.0, 1.0)
    assert uniform.uncertainty.item() == pytest.approx(1.0)
    assert uniform.probability.item() == pytest.approx(1 / 9)


def _measure(criterion, *exits, patience=1):
    bounds = [_bounds(logits, list(range(len(logits))), (1, len(logits))) for logits in exits]
    return MEASURES[criterion](bounds, patience).item()


A, B, C = [[1.0, 0.0], [0.0, 1.0]], [[4.0, 0.0], [0.0, 0.5]], [[1.0, 3.0], [0.0, 1.0]]


def test_patience_counts_exits_whose_start_and_end_were_those_of_the_one_before():
    assert [_measure("patience", *exits) for exits in ((A,), (A, B), (A, B, A))] == [0, 1, 2]
    assert [_measure("patience", *exits) for exits in ((A, B, C), (C, A, B))] == [0, 1]


def test_patient_confidence_is_the_largest_uncertainty_of_the_last_exits():
    entropies = [_measure("normalised_entropy", logits) for logits in (A, B, C)]
    for patience, expected in ((1, entropies[2]), (2, max(entropies[1:])), (3, max(entropies))):
        assert _measure("patient_confidence", A, B, C, patience=patience) == pytest.approx(expected)
    assert _measure("patient_confidence", A, B, patience=3) == math.inf


def test_every_criterion_but_the_learned_has_a_measure():
    assert set(MEASURES) == set(CRITERIA) - {"learned"}


@every_criterion
def test_the_thresholds_of_a_sweep_are_in_range_and_differ(criterion):
    points = (
        EarlyExit(criterion=criterion)
        .build(spec(labels=2, task=Task.SPAN, layers=6))
        .operating_points()
    )
    for threshold in points.path:
        points.check(threshold)
    assert len(set(points.path)) > 2


@every_method
@pytest.mark.parametrize("threshold", ["untrained", "never"])
def test_where_no_text_exits_the_model_is_the_dense_one_bit_for_bit(name, threshold):
    never_exit = CRITERIA[METHODS[name].criterion].never_exit
    model = span_model(METHODS[name], None if threshold == "untrained" else never_exit)
    batch = ragged(model)
    dense, _ = read(fewer.attach(tiny(task=TASK, layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, dense)
    assert _depth(trace) == [LAYERS] * len(LENGTHS)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("patient", "pabee")])
def test_at_the_most_eager_threshold_every_text_exits_at_the_first_exit(name):
    model = span_model(METHODS[name], CRITERIA[METHODS[name].criterion].always_exit)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert torch.equal(trace.layers_read, batch["attention_mask"])
    assert torch.equal(real(logits, batch), trace.exit_outputs[0].logits)
    assert trace.head_flops.tolist() == [length * 2 * WIDTH * 2 for length in LENGTHS]


@every_method
@pytest.mark.parametrize("backbone", ["bert", "albert", "distilbert"])
def test_a_batch_equals_its_texts_one_by_one(name, backbone):
    model = _half_open(METHODS[name], backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert len(set(_depth(trace))) > 1
    for row, length in enumerate(LENGTHS):
        single, single_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row, :length], single[0], atol=1e-5, rtol=0)
        assert _depth(single_trace) == _depth(trace)[row : row + 1]
        assert single_trace.head_flops.tolist() == trace.head_flops[row : row + 1].tolist()


@every_method
def test_the_answer_is_that_of_the_layer_a_text_exited_after(name):
    model = _half_open(METHODS[name])
    batch = ragged(model)
    logits, trace = read(model, batch)
    flat, depth = logits.flatten(0, 1), trace.layers_read.flatten()
    for output in trace.exit_outputs:
        expected = output.rows[depth[output.rows] == output.layer + 1]
        rows = output.rows[:0] if output.exited is None else output.rows[output.exited]
        assert torch.equal(rows, expected)
        assert torch.equal(flat[rows], output.logits[torch.isin(output.rows, rows)])
        assert not torch.isin(output.rows, (depth <= output.layer).nonzero()).any()
    assert not trace.dropped.any()


STACKS = {
    "pyramid": MagicPyramid(pruning=LTP(final_threshold=0.2)),
    "exits first": Stack((FastBERT(), LTP(final_threshold=0.2))),
    "drops": Stack((EarlyExit(layers=(2,)), Drop(share=0.3))),
    "skim": Stack((FastBERT(), BlockSkim(block=4))),
}


def _pruning_model(name, backbone="bert"):
    model = _half_open(STACKS[name], backbone)
    for part in _policy(model).parts:
        if isinstance(part.method, BlockSkim):
            part.threshold.fill_(0.9)  # only the best blocks are kept
    return model


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("backbone", ["bert", "modernbert"])
def test_no_answer_begins_or_ends_at_a_pruned_token(name, backbone):
    model = _pruning_model(name, backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    is_masked = logits == masked_score(logits.dtype)
    assert torch.equal(is_masked.any(2), trace.dropped | trace.padding)
    assert trace.dropped.any()
    has_exited = torch.zeros_like(trace.dropped).flatten()
    for output in trace.exit_outputs:
        if output.exited is not None:
            has_exited[output.rows[output.exited]] = True
            assert not is_masked.flatten(0, 1)[output.rows[output.exited]].any()
    assert has_exited.any()
    deepest, mask = trace.layers_read.amax(1, keepdim=True), batch["attention_mask"].bool()
    assert torch.equal((trace.layers_read == deepest) & mask | trace.dropped, mask)


@pytest.mark.parametrize("name", STACKS)
def test_masking_gives_the_same_as_removal(name):
    """Tokens of a text that has exited are not pruned by later decisions."""
    model = _pruning_model(name)
    batch = ragged(model)
    (compact, trace), (masked, masked_trace) = (
        read(model, batch, apply) for apply in ("compact", "mask")
    )
    torch.testing.assert_close(real(masked, batch), real(compact, batch), atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, masked_trace.layers_read)
    assert torch.equal(trace.dropped, masked_trace.dropped)
    assert trace.head_flops.tolist() == masked_trace.head_flops.tolist()


def test_pruned_tokens_are_no_part_of_the_uncertainty_of_a_text():
    """Of three tokens the two alike are uncertain; without either of them it is low."""
    policy = EarlyExit(threshold=0.5).build(spec(labels=2, task=Task.SPAN, width=1))
    with torch.no_grad():
        policy.heads[0].weight.fill_(1.0)
        policy.heads[0].bias.zero_()
    policy.threshold.fill_(0.5)
    tokens = packed((3, 1, 3), width=1)
    tokens = tokens.replace(hidden=torch.tensor([5.0, 0.0, 5.0, 1.0, 5.0, 0.0, 5.0])[:, None])
    last_pruned = torch.tensor([True] * 6 + [False])
    for alive, exits in ((None, [False, True, False]), (last_pruned, [False, True, True])):
        decision = policy.decide(view(tokens.replace(alive=alive)))
        assert decision.exits.tolist() == exits
        (output,) = decision.exit_outputs
        slots = tokens.slot if alive is None else tokens.slot[alive]
        assert torch.equal(output.rows, slots)
        assert torch.equal(output.exited, torch.tensor(exits)[slots // 3])


@pytest.mark.parametrize("training", [True, False])
def test_while_exits_train_heads_compute_and_no_text_exits(training):
    model = span_model(EarlyExit(), 1.0).train(training)
    (phase,) = EarlyExit().phases()
    with running(model, phase), fewer.record() as traces:
        model(**ragged(model))
    (trace,) = traces
    assert _depth(trace) == [LAYERS] * len(LENGTHS)
    assert [output.exited for output in trace.exit_outputs] == [None] * (LAYERS - 1)
    assert [len(output.rows) for output in trace.exit_outputs] == [sum(LENGTHS)] * (LAYERS - 1)


def test_a_target_chooses_the_threshold():
    method = EarlyExit(target=0.7)
    policy = method.build(spec(labels=2, task=Task.SPAN))
    (phase,) = method.phases()
    for first in (True, False):
        data = calibration_data(lambda: 1 - policy.threshold.item(), first=first)
        policy.calibrate(phase, data)
        assert first is (policy.threshold.item() == 0.0)
    assert policy.threshold.item() == pytest.approx(0.3, abs=0.003)


def test_a_criterion_of_whole_texts_is_refused():
    with pytest.raises(ValueError, match=r"criterion must .* got 'learned'"):
        fewer.attach(tiny(task=TASK), BERxiT())


@pytest.mark.parametrize(
    "method", [EarlyExit(head="pooled"), DeeBERT(head="attentive"), RightTool(head="shared")]
)
def test_a_head_of_whole_texts_is_refused_unless_it_is_the_papers_own(method):
    with pytest.raises(ValueError, match=rf"head must .* got '{method.head}'"):
        fewer.attach(tiny(task=TASK), method)
    heads = [_policy(fewer.attach(tiny(task=TASK), paper)).heads for paper in (DeeBERT(), PABEE())]
    assert [tuple(head.weight.shape) for head in heads[0]] == [(2, WIDTH)] * 2
    assert len(heads[1]) == 2


def test_a_former_default_head_is_accepted_where_it_is_not_used():
    method = BERxiT(criterion="normalised_entropy", head="shared")
    heads = _policy(fewer.attach(tiny(task=TASK), method)).heads
    assert [tuple(head.weight.shape) for head in heads] == [(2, WIDTH)] * 2


@pytest.mark.parametrize("method", [METHODS["right_tool"], STACKS["pyramid"]])
def test_saved_copied_and_pickled_models_are_the_same_model(method, tmp_path):
    model = _half_open(method)
    batch = ragged(model)
    expected, trace = read(model, batch)
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).method == method
    for copied in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        logits, copied_trace = read(copied, batch)
        assert torch.equal(logits, expected)
        assert _depth(copied_trace) == _depth(trace)


def test_texts_exit_earlier_the_more_eager_the_threshold():
    model = span_model(STACKS["pyramid"])
    batch = ragged(model, (3, 12, 2, 7, 5, 9, 4, 8))
    depths = []
    for threshold in (0.0, 0.3, 0.7, 0.9, 1.0):
        fewer.set_threshold(model, threshold=threshold)
        depths.append(read(model, batch)[1].layers_read.amax(1).sum().item())
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == 8 * LAYERS > depths[2] > depths[-1]


def test_the_loss_of_the_model_is_that_of_its_answers():
    model = _half_open(EarlyExit())
    batch = ragged(model)
    starts, ends = SPANS.unbind(1)
    with torch.no_grad():
        output = model(**batch, start_positions=starts, end_positions=ends)
    logits = torch.stack((output.start_logits, output.end_logits), -1)
    assert output.loss.item() == pytest.approx(SpanHead(None).loss(logits, SPANS).item())


def test_a_sweep_scores_questions_at_every_threshold():
    contexts = ["w9 w10", " ".join(f"w{n}" for n in range(30)), "w30 w31 w32", "w40"]
    answers = [{"text": [context.split()[0]], "answer_start": [0]} for context in contexts]
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
