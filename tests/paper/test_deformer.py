r"""DeFormer (Cao et al., ACL 2020, arXiv 2005.00697), with pencil and paper.

Two texts, of three tokens and of two, tau = 2. The tempered probabilities of starts and ends are

    text 1, starts:  student 1/2 1/4 1/4,  teacher 1/4 1/2 1/4:  KL = 1/4 log 2
            ends:    the same of both:                           KL = 0
    text 2, both:    student 1/2 1/2,      teacher 1/4 3/4:      KL = 3/4 log 3 - log 2

so that KD, tau^2 times the mean of the four, is 3/2 log 3 - 7/4 log 2.
"""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch

import fewer
from fewer.core.cost import LayerCost, ModelSpec, Task
from fewer.core.learning import TeacherOutput
from fewer.core.phase import INFERENCE
from fewer.core.trace import LayerTrace, Trace
from fewer.hf.attach import attachment
from fewer.hf.packing import pack
from fewer.methods.attention import DeFormer
from fewer.passages import index
from fewer.passages.lower import read_lower
from tests.batches import training_batch
from tests.tiny import tiny, word_tokenizer

KD = 1.5 * log(3) - 1.75 * log(2)
LRS = (1 + 2.5) / 2
SLOTS = torch.tensor([0, 1, 2, 3, 4])  # of a grid of 2 x 3; the last is padding
PADDING = 1000.0  # a logit that would win, if it were real
SPEC = ModelSpec(3, 2, 1, 0.0, (LayerCost(1, 2, 1, 8, 4, 2),) * 3, labels=2, task=Task.SPAN)


def _logits(starts, ends, others):
    """Lay tempered probabilities (text 1, text 1, text 2) out as logits (2, 3, 2)."""
    rows = [[starts, ends], [[*others, 0], [*others, 0]]]
    tempered = 2 * torch.tensor(rows).log()  # (2 texts, 2 ends of a span, 3)
    tempered[1, :, 2] = PADDING
    return tempered.transpose(1, 2)


STUDENT = _logits([1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 2])
TEACHER = _logits([1 / 4, 1 / 2, 1 / 4], [1 / 2, 1 / 4, 1 / 4], [1 / 4, 3 / 4])


def _trace(**states):
    trace, count = Trace((2, 3), torch.device("cpu"), real=SLOTS), torch.ones(2)
    layer = LayerTrace(count, count, count, scored=False, slot=SLOTS)
    trace.layers = [layer] * 3
    for name, (slot, values) in states.items():
        trace.layers[int(name[-1])] = replace(layer, slot=slot, states=values)
    return trace


def _loss(**settings):
    """Learn from states that are 1 apart in layer 1; in layer 2 the student has lost three tokens.

    Its other two are (3, 0) and (0, 1) away from the teacher's: (9 + 1) / 4.
    """
    states = torch.arange(10.0).view(5, 2)
    remaining = torch.tensor([0, 3])
    student = _trace(
        layer1=(SLOTS, states + 1),
        layer2=(remaining, states[remaining] + torch.tensor([[3.0, 0.0], [0.0, -1.0]])),
    )
    teacher = _trace(layer1=(SLOTS, states), layer2=(SLOTS, states))
    batch = replace(training_batch(student, STUDENT), teacher=TeacherOutput(TEACHER, teacher))
    return float(DeFormer(lower=1, **settings).build(SPEC).loss(batch))


@pytest.mark.parametrize(
    ("alpha", "beta", "wanted"),
    [(1.0, 0.0, KD), (0.0, 1.0, LRS), (0.5, 2.0, 0.5 * KD + 2 * LRS)],
)
def test_the_loss_is_alpha_kd_and_beta_lrs(alpha, beta, wanted):
    found = _loss(distillation=alpha, similarity=beta)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_kd_is_scaled_by_the_square_of_tau():
    """A temperature of 1 squares the probabilities: text 1 is (4, 1, 1) / 6 and (1, 4, 1) / 6."""
    first = 0.5 * log(4)  # (1 log(1/4) + 4 log 4 + 1 log 1) / 6
    second = 0.1 * log(0.2) + 0.9 * log(1.8)  # (1/2, 1/2) and (1, 9) / 10
    found = _loss(similarity=0.0, temperature=1.0)
    assert found == pytest.approx((first + 0 + 2 * second) / 4, abs=1e-5)


def test_who_is_its_own_teacher_learns_nothing():
    trace = _trace(layer1=(SLOTS, torch.ones(5, 2)))
    batch = replace(training_batch(trace, STUDENT), teacher=TeacherOutput(STUDENT, trace))
    assert float(DeFormer(lower=1).build(SPEC).loss(batch)) == pytest.approx(0, abs=1e-6)


def test_the_upper_layers_alone_are_compared_and_only_with_a_teacher():
    policy = DeFormer(lower=1).build(SPEC)
    (phase,) = policy.method.phases()
    assert [policy.needs(layer, phase).states for layer in range(3)] == [False, True, True]
    split = [policy.layout(layer, INFERENCE).split_pairs for layer in range(3)]
    assert split == [True, False, False]
    assert not any(policy.needs(layer, INFERENCE).states for layer in range(3))


QUESTIONS = [[10], [11, 12, 13], []]
PASSAGES = [[20, 21, 22, 23, 24], [30], [40, 41]]


def _model(family, **settings):
    model = tiny(family, "QuestionAnswering", num_labels=2, layers=4, **settings)
    return fewer.attach(model, DeFormer(lower=2))


def _batch(questions):
    """Lay pairs out as [CLS] question [SEP] passage [SEP], padded."""
    pairs = zip(questions, PASSAGES, strict=True)
    rows = [torch.tensor([2, *question, 3, *passage, 3]) for question, passage in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
    }


@pytest.mark.parametrize(("family", "first"), [("bert", 0), ("roberta", 2)])
def test_positions_restart_in_each_segment(family, first):
    model = _model(family)
    backbone, batch = attachment(model).backbone(model.base_model), _batch(QUESTIONS)
    tokens = pack(
        backbone,
        batch["input_ids"],
        None,
        batch["attention_mask"],
        None,
        None,
        restarts_positions=True,
    )
    wanted = []
    for question, passage in zip(QUESTIONS, PASSAGES, strict=True):
        wanted += [*range(len(question) + 2), *range(len(passage) + 1)]
    assert tokens.position.tolist() == [first + place for place in wanted]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_another_question_changes_nothing_of_a_passage_before_layer_k(family):
    model, others = _model(family), [[50, 51], [], [52, 53, 54, 55]]
    for stop, same in ((1, True), (2, True), (3, False)):
        found = [read_lower(model, _batch(questions), stop) for questions in (QUESTIONS, others)]
        for (places, states), (same_places, other_states) in zip(*found, strict=True):
            assert places.tolist() == same_places.tolist() == list(range(len(states)))
            assert torch.allclose(states, other_states, atol=1e-5) == same


def _f(n, d):
    return 2 * d * n**2 + 12 * d**2 * n


@pytest.mark.parametrize(
    ("tokens", "question", "ratios"),
    [  # k = 8, 9, 10 of 12; our notes on the authors' lengths, section 7.4
        (320, 27, (2.59, 3.23, 4.30)),
        (512, 32, (2.69, 3.42, 4.68)),
        (320, 17, (2.73, 3.48, 4.80)),
        (120, 33, (1.95, 2.21, 2.55)),
        (100, 42, (1.64, 1.78, 1.95)),
    ],
    ids=["squad", "race", "boolq", "mnli", "qqp"],
)
def test_the_flops_of_the_papers_lengths(tokens, question, ratios):
    d = 768
    cost = LayerCost(2 * d**2, 4 * d**2, 2 * d**2, 16 * d**2, 4 * d, 0.0)
    shape = ModelSpec(12, d, 12, 0.0, (cost,) * 12)
    for lower, wanted in zip((8, 9, 10), ratios, strict=True):
        trace = Trace((1, tokens), torch.device("cpu"))
        for layer in range(12):
            n = torch.tensor([question if layer < lower else tokens]).double()
            trace.layers.append(LayerTrace(n, n, n, scored=False))
        dense = shape.dense_flops(torch.tensor([tokens]).double())
        assert float(dense / shape.flops(trace)) == pytest.approx(wanted, abs=0.005)


@pytest.mark.parametrize(("question", "passage"), [(1, 16), (4, 9), (0, 1)])
def test_the_trace_counts_what_the_formula_does(question, passage):
    """L f(N) / (k f(q) + (L - k) f(N)), q with its [CLS] and [SEP], N with all three."""
    model = _model("bert", intermediate_size=4 * 16)  # f is of a network of four times the width
    text = " ".join(f"w{n}" for n in range(passage))
    own = index(model, word_tokenizer(), {"p": text}, None, progress=False)
    with fewer.record() as traces:
        own.ask([" ".join(["w1"] * question)], ["p"])
    shape, (trace,) = attachment(model).spec, traces
    q, n = question + 2, question + passage + 3

    online = 2 * _f(q, 16) + 2 * _f(n, 16)
    assert float(shape.flops(trace).sum()) == 2 * online  # a multiply-add is 2
    dense = shape.dense_flops(torch.tensor([float(n)]))
    assert float(dense.sum() / shape.flops(trace).sum()) == pytest.approx(4 * _f(n, 16) / online)
