"""Training-free pruning: scores of transformers, targets that are met, an exact last layer."""

import pickle
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from transformers import BatchEncoding

import fewer
from fewer.methods.pruning import TrainingFree
from fewer.training.calibration import calibrate
from fewer.training.prune import prune
from tests.contract.table import read
from tests.rounding import assert_same
from tests.tiny import FAMILIES, ragged, tiny, word_tokenizer

RULES = ("received", "cumulative", "cls", "value")
TEXTS = [
    " ".join(f"w{(row * 7 + place * (row % 5 + 1)) % 50}" for place in range(4 + row % 9))
    for row in range(60)
]


def _ratio(model, texts):
    with fewer.record() as traces:
        fewer.predict(model, word_tokenizer(), texts, progress=False)
    spec = fewer.attachment(model).spec
    flops = sum(float(spec.flops(trace).sum()) for trace in traces)
    return flops / sum(float(spec.dense_flops_of(trace).sum()) for trace in traces)


@pytest.mark.parametrize("rule", RULES)
def test_the_target_is_met_on_the_texts_and_nothing_trains(rule):
    model = tiny(layers=4, width=16, initializer_range=0.3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune(model, word_tokenizer(), TEXTS, method=TrainingFree(rule=rule, target=0.7))
    assert _ratio(model, TEXTS) == pytest.approx(0.7, abs=0.02)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_last_layer_of_the_first_token_alone_changes_no_answer(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    with torch.no_grad():
        plain = model(**batch).logits
        fewer.attach(model, TrainingFree())  # thresholds are 0: only the last layer differs
        with fewer.record() as traces:
            found = model(**batch).logits
    assert_same(found, plain)
    reads_first = fewer.attachment(model).spec.reads_first_token
    assert reads_first == (getattr(model.config, "classifier_pooling", "cls") in ("cls", "bos"))
    rows = traces[0].layers[-1].read
    assert rows.tolist() == ([1.0] * len(rows) if reads_first else traces[0].lengths.tolist())


def test_other_tasks_compute_all_tokens_of_the_last_layer():
    for task in ("TokenClassification", "QuestionAnswering"):
        model = fewer.attach(tiny(task=task), TrainingFree())
        assert not fewer.attachment(model).spec.reads_first_token
        assert not fewer.attachment(model).policy.skips_last


def _scores(model, rule, batch):
    """Collect the scores that the policy compares in each layer."""
    fewer.attach(model, TrainingFree(rule=rule), kernel="reference")
    policy, found = fewer.attachment(model).policy, []
    scores = policy._scores
    policy._scores = lambda view: found.append(scores(view)) or found[-1]
    with torch.no_grad():
        model(**batch)
    return found


@pytest.mark.parametrize("rule", RULES)
def test_scores_are_those_of_the_attention_of_transformers(rule):
    plain = tiny(layers=3, attn_implementation="eager")
    batch = {"input_ids": ragged(plain, (6,))["input_ids"]}
    values = []
    for layer in plain.base_model.encoder.layer:
        layer.attention.self.value.register_forward_hook(lambda *call: values.append(call[2]))
    with torch.no_grad():
        attentions = plain(**batch, output_attentions=True).attentions
    wanted = []
    for attention, value in zip(attentions, values, strict=True):
        heads = value[0].unflatten(-1, (attention.shape[1], -1))  # (n, H, d)
        if rule == "value":
            scores = (attention[0, :, 0].T * heads.norm(dim=-1)).sum(1)
        else:
            scores = attention[0].sum((0, 1)) if rule != "cls" else attention[0, :, 0].sum(0)
        wanted.append(scores / scores.mean())
    model = tiny(layers=3)
    model.load_state_dict(plain.state_dict())
    found = _scores(model, rule, batch)
    assert len(found) == 1  # layer 1 of 0, 1, 2: the last computes the first token only
    assert_same(found[0], wanted[1])


def test_cumulative_scores_add_up_from_layer_to_layer():
    model, other = tiny(layers=5), tiny(layers=5)
    other.load_state_dict(model.state_dict())
    batch = ragged(model)
    single, summed = (
        _scores(each, rule, batch) for each, rule in ((model, "received"), (other, "cumulative"))
    )
    for layer, scores in enumerate(summed):
        assert_same(scores, torch.stack(single[: layer + 1]).sum(0))


def test_a_larger_factor_prunes_more():
    model = prune(
        tiny(layers=4, width=16, initializer_range=0.3), word_tokenizer(), TEXTS, target=0.7
    )
    points = fewer.attachment(model).policy.operating_points()
    ratios = []
    for point in points.path:
        points.set(point)
        ratios.append(_ratio(model, TEXTS))
    assert all(later <= earlier for earlier, later in pairwise(ratios))
    assert ratios[0] > ratios[-1]


def test_a_target_that_cannot_be_met_is_told_with_the_nearest():
    model = tiny(layers=2, width=16)
    with pytest.warns(UserWarning, match=r"keeps 0\.\d+ of the FLOPs, not the target"):
        prune(model, word_tokenizer(), TEXTS, target=0.05)


def test_what_makes_no_sense_is_refused():
    model, tokenizer = tiny(), word_tokenizer()
    with pytest.raises(ValueError, match="texts must hold"):
        prune(model, tokenizer, [])
    with pytest.raises(ValueError, match="method must train nothing"):
        prune(model, tokenizer, TEXTS, method=fewer.LTP())
    with pytest.raises(ValueError, match="target must be left out"):
        prune(model, tokenizer, TEXTS, method=TrainingFree(), target=0.5)
    with pytest.raises(ValueError, match="first_layer"):
        fewer.attach(tiny(task="TokenClassification"), TrainingFree(first_layer=9))


def test_fit_calibrates_it_without_a_step(tmp_path):
    from fewer.tasks.texts import encode_texts

    rows = encode_texts(TEXTS, word_tokenizer(), max_length=16).add_column("labels", [0, 1] * 30)
    model = tiny(layers=4, width=16, initializer_range=0.3)
    weights = model.base_model.embeddings.word_embeddings.weight.clone()
    fewer.fit(
        model,
        TrainingFree(target=0.7),
        rows,
        tokenizer=word_tokenizer(),
        output_dir=tmp_path,
    )
    assert torch.equal(model.base_model.embeddings.word_embeddings.weight, weights)
    loaded = fewer.load(tmp_path / "model")
    assert torch.equal(
        fewer.attachment(loaded).policy.threshold, fewer.attachment(model).policy.threshold
    )
    assert float(fewer.attachment(loaded).policy.threshold.max()) > 0


def _divergence(model, plain, texts):
    found = fewer.predict(model, word_tokenizer(), texts, progress=False).log_softmax(1)
    loss = torch.nn.functional.kl_div
    return float(loss(found, plain.log_softmax(1), log_target=True, reduction="batchmean"))


def test_the_search_moves_the_answers_less_at_the_same_flops():
    divergences, layers = [], []
    for search in (False, True):
        model = tiny(layers=6, width=16, initializer_range=0.3)
        plain = fewer.predict(model, word_tokenizer(), TEXTS, progress=False)
        prune(model, word_tokenizer(), TEXTS, method=TrainingFree(target=0.7, search=search))
        assert _ratio(model, TEXTS) == pytest.approx(0.7, abs=0.02)
        divergences.append(_divergence(model, plain, TEXTS))
        layers.append(fewer.attachment(model).policy.layers)
    assert layers[0] == range(1, 5)
    assert layers[1] != layers[0]
    assert divergences[1] < divergences[0]


def test_pruned_tokens_go_on_as_one_where_the_answer_is_that_of_a_text():
    """With thresholds above every score layer 1 leaves [CLS] and the carrier of all others."""
    for task, merge, left in (
        ("SequenceClassification", True, 2),
        ("SequenceClassification", False, 1),
        ("TokenClassification", True, 1),
    ):
        model = fewer.attach(tiny(task=task, layers=3), TrainingFree(merge=merge))
        fewer.attachment(model).policy.threshold.fill_(99.0)
        _, trace = read(model, ragged(model, (9, 6)))
        assert trace.layers[1].read.tolist() == [left, left]


def test_layers_that_were_not_chosen_sum_no_attention_also_after_loading(tmp_path):
    model = tiny(layers=6, width=16, initializer_range=0.3)
    prune(model, word_tokenizer(), TEXTS, target=0.7)
    policy = fewer.attachment(model).policy
    chosen = [layer in policy.layers for layer in range(6)]
    assert 0 < sum(chosen) < 4
    assert [value < 0 for value in policy.threshold.tolist()[1:5]] == [not c for c in chosen[1:5]]
    fewer.save(model, tmp_path)
    for same in (fewer.load(tmp_path), pickle.loads(pickle.dumps(model))):
        assert fewer.attachment(same).policy.layers == policy.layers
        with fewer.record() as traces:
            fewer.predict(same, word_tokenizer(), TEXTS, progress=False)
        assert [layer.scored for layer in traces[0].layers] == chosen


@pytest.mark.parametrize("task", ["TokenClassification", "QuestionAnswering"])
def test_other_answers_are_searched_by_too(task):
    model = fewer.attach(tiny(task=task, layers=6), TrainingFree(target=0.8))
    attached, batch = fewer.attachment(model), ragged(model, (20, 30, 12))
    sample = Dataset.from_list([{"input_ids": row} for row in batch["input_ids"].tolist()])
    (phase,) = TrainingFree(target=0.8).phases()
    calibrate(model, phase, sample, lambda rows: BatchEncoding(batch), first=True)
    assert len(attached.policy.layers) < 5
    _, trace = read(model, batch)
    assert float(attached.spec.flops_ratio(trace)) == pytest.approx(0.8, abs=0.05)


QUESTIONS = [" ".join(text.split()[1:3]) for text in TEXTS]


def test_the_lexical_rule_meets_its_target_on_pairs_and_keeps_first_texts():
    model, tokenizer = tiny(layers=4, width=16), word_tokenizer()
    prune(
        *(model, tokenizer, QUESTIONS),
        text_pairs=TEXTS,
        method=TrainingFree(rule="lexical", target=0.7),
    )
    batch = tokenizer(QUESTIONS, TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad(), fewer.record() as traces:
        model(**batch)
    trace, spec = traces[0], fewer.attachment(model).spec
    assert float(spec.flops_ratio(trace)) == pytest.approx(0.7, abs=0.02)
    read = trace.layers_read
    assert bool((read[batch["token_type_ids"].eq(0) & batch["attention_mask"].bool()] >= 3).all())
    assert int((read == 0).sum()) > int((batch["attention_mask"] == 0).sum())


def test_the_lexical_rule_is_refused_for_single_texts_and_embeddings():
    method = TrainingFree(rule="lexical")
    with pytest.raises(ValueError, match="lexical"):
        prune(tiny(), word_tokenizer(), TEXTS, method=method)
    model = fewer.attach(tiny(), method)
    with pytest.raises(ValueError, match="input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, model.config.hidden_size))


def test_frequencies_are_saved_with_the_model(tmp_path):
    model, tokenizer = tiny(layers=4, width=16), word_tokenizer()
    method = TrainingFree(rule="lexical", target=0.7)
    prune(model, tokenizer, QUESTIONS, text_pairs=TEXTS, method=method)
    fewer.save(model, tmp_path)
    batch = tokenizer(QUESTIONS, TEXTS, padding=True, return_tensors="pt")
    assert_same(read(fewer.load(tmp_path), batch)[0], read(model, batch)[0])
