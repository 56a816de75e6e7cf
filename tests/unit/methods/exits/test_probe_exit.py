"""Exits of linear probes: fitted to the model's own answers, by hand and on whole models."""

from itertools import pairwise

import pytest
import torch

import fewer
from fewer.core.decision import Site
from fewer.methods.combined import Stack
from fewer.methods.exits import ProbeExit
from fewer.methods.exits.ridge import Ridge
from fewer.methods.pruning import TrainingFree
from tests.rounding import assert_same
from tests.tiny import ragged, tiny, word_tokenizer

TEXTS = [
    " ".join(f"w{(row * 7 + place * (row % 5 + 1)) % 50}" for place in range(3 + row % 9))
    for row in range(80)
]
SENTENCES = [text.split() for text in TEXTS]


def model_of(task="SequenceClassification", **sizes):
    torch.manual_seed(0)
    return tiny(task=task, **{"layers": 4, "width": 16, "initializer_range": 0.5} | sizes).eval()


def probed(method=None, texts=TEXTS, model=None):
    return fewer.prune(model or model_of(), word_tokenizer(), texts, method=method or ProbeExit())


def policy_of(model):
    return fewer.attachment(model).policy


def answers(model, texts=TEXTS):
    with fewer.record() as traces:
        logits = fewer.predict(model, word_tokenizer(), texts)
    return logits, traces


def test_without_a_margin_every_text_has_the_answer_of_the_first_probe():
    model = probed(ProbeExit(margin=0.0))
    logits, traces = answers(model)
    assert all(len(trace.layers) == 1 for trace in traces)
    batch = word_tokenizer()(TEXTS[:4], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model_of()(**batch, output_hidden_states=True).hidden_states[1]
    mask = batch["attention_mask"].unsqueeze(2)
    means = (hidden * mask).sum(1) / mask.sum(1)
    probe = policy_of(model).probes[0]
    assert_same(logits[:4], probe(torch.cat((hidden[:, 0], means), 1)).detach(), 1e-4)


def test_with_a_wide_margin_the_answers_are_the_model_s():
    logits, traces = answers(probed(ProbeExit(margin=1e6)))
    assert not any(trace.exited.any() for trace in traces)
    assert_same(logits, fewer.predict(fewer.attach(model_of()), word_tokenizer(), TEXTS), 1e-5)


def test_texts_exit_sooner_by_a_smaller_margin():
    model, depths = probed(), []
    for margin in policy_of(model).operating_points().path:
        fewer.set_threshold(model, threshold=margin)
        _, traces = answers(model)
        depths.append(sum(int(trace.layers_read.sum()) for trace in traces))
    assert all(first >= second for first, second in pairwise(depths))
    assert depths[0] > 2 * depths[-1]


def test_the_last_layer_computes_the_first_token_only_and_answers_alike():
    whole, cut = (probed(ProbeExit(margin=1e6, only_first_last=only)) for only in (False, True))
    (logits, traces), (alike, fewer_traces) = answers(whole), answers(cut)
    assert_same(alike, logits, 1e-5)
    for trace in traces:
        assert torch.equal(trace.layers[-1].queries, trace.layers[-1].keys)
    for trace in fewer_traces:
        assert trace.layers[-1].queries.tolist() == [1] * len(trace.layers[-1].keys)
        assert torch.equal(trace.layers[-2].queries, trace.layers[-2].keys)
    tagger = probed(texts=SENTENCES, model=model_of("TokenClassification"))
    assert Site.BEFORE not in policy_of(tagger).sites  # its head reads every token


def test_a_target_sets_the_margin():
    model = probed(ProbeExit(target=0.6))
    _, traces = answers(model)
    spec = fewer.attachment(model).spec
    used = sum(float(spec.flops(trace).sum()) for trace in traces)
    assert used / sum(float(spec.dense_flops_of(trace).sum()) for trace in traces) <= 0.605


def test_the_error_is_that_of_the_difference_of_the_two_largest_estimates():
    """Errors 0.3 - -0.1 and -0.2 - 0.4 of the two largest: the root of (0.16 + 0.36) / 2."""
    policy = policy_of(probed())
    estimates = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    errors = torch.tensor([[0.3, -0.1, 9.0], [9.0, -0.2, 0.4]])
    ridge = Ridge(torch.zeros(3, 1), torch.zeros(3), estimates, errors)
    assert policy._spread_of(ridge).tolist() == pytest.approx([0.26**0.5] * 3)
    certainty = policy._certainty(estimates, torch.full((3,), 0.5))
    assert certainty.tolist() == pytest.approx([2.0, 4.0])


def test_independent_labels_must_all_be_far_from_their_threshold():
    model = model_of()
    model.config.problem_type = "multi_label_classification"
    policy = policy_of(probed(model=model))
    logits, spread = torch.tensor([[-3.0, 1.0, 4.0]]), torch.tensor([1.0, 2.0, 1.0])
    assert policy._certainty(logits, spread).tolist() == [0.5]


def test_a_sentence_exits_when_all_of_its_tokens_are_certain():
    model = probed(texts=SENTENCES, model=model_of("TokenClassification"))
    certain = policy_of(model)
    fewer.set_threshold(model, threshold=0.2)
    batch = ragged(model)
    with torch.no_grad(), fewer.record() as (traces):
        model(**batch)
    (trace,) = traces
    for output in trace.exit_outputs:
        if output.exited is None:
            continue
        certainty = certain._certainty(output.logits, certain.spread[output.layer])
        texts = output.rows // batch["input_ids"].shape[1]
        for text in texts.unique():
            of_text = texts == text
            assert output.exited[of_text].all() == (certainty[of_text] >= 0.2).all()


def test_it_is_fitted_behind_a_method_that_prunes():
    model = probed(Stack(methods=(TrainingFree(target=0.8, only_first_last=False), ProbeExit())))
    _, traces = answers(model)
    read = sum(float(trace.layers[-1].read.sum()) for trace in traces)
    assert read < sum(float(trace.layers[0].keys.sum()) for trace in traces)


def test_it_is_saved_with_the_model(tmp_path):
    model = probed(ProbeExit(margin=0.5))
    fewer.save(model, tmp_path)
    assert_same(answers(fewer.load(tmp_path))[0], answers(model)[0], 1e-5)


@pytest.mark.parametrize(
    ("task", "sizes"), [("SequenceClassification", {"num_labels": 1}), ("QuestionAnswering", {})]
)
def test_models_that_answer_otherwise_are_refused(task, sizes):
    with pytest.raises(ValueError, match="ProbeExit"):
        fewer.attach(tiny(task=task, **sizes), ProbeExit())


def test_too_few_texts_and_two_settings_are_refused():
    with pytest.raises(ValueError, match="16 texts"):
        probed(texts=TEXTS[:9])
    with pytest.raises(ValueError, match="target"):
        ProbeExit(margin=1.0, target=0.5)
