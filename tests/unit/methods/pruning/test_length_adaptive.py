from dataclasses import replace

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.hf.attach import running
from fewer.measure.scorers import TextScorer
from fewer.measure.sweep import present_threshold, sweep
from fewer.methods.combined import Stack
from fewer.methods.pruning import LengthAdaptive
from tests.batches import PHASE, calibration_data, training_batch
from tests.contract.table import TASKS, every_backbone, read
from tests.rounding import assert_same
from tests.tiny import ragged, tiny, word_tokenizer
from tests.unit.training import synthetic

QUICK = LengthAdaptive(
    drop=0.5, target=0.6, population=5, iterations=1, offspring=3, epochs=2, learning_rate=2e-3
)


def policy_of(model):
    return fewer.attachment(model).policy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop": 0.0}, "drop"),
        ({"drop": 1.0}, "drop"),
        ({"layer_drop": 1.0}, "layer_drop"),
        ({"random_models": -1}, "random_models"),
        ({"divergence": "both"}, "divergence"),
        ({"target": 1.0}, "target"),
        ({"lengths": ()}, "lengths"),
        ({"lengths": (0.5, 0.6)}, "lengths must not grow"),
        ({"lengths": (0.5, 0.5), "target": 0.5}, "target must be absent with lengths"),
        ({"population": 0}, "population"),
        ({"iterations": -1}, "iterations"),
        ({"offspring": 0}, "offspring"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LengthAdaptive(**settings)


def test_lengths_have_a_share_for_each_layer():
    with pytest.raises(ValueError, match="each of the 3 layers; got 2"):
        fewer.attach(tiny(), LengthAdaptive(lengths=(0.5, 0.5)))


@every_backbone
def test_an_untrained_method_changes_no_answer(backbone):
    model = fewer.attach(tiny(backbone), LengthAdaptive())
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert_same(logits, read(fewer.attach(tiny(backbone)), batch)[0])
    assert not bool((trace.layers_read[batch["attention_mask"].bool()] < len(trace.layers)).any())
    assert policy_of(model).operating_points().is_never


def test_a_smaller_budget_takes_fewer_flops_and_each_point_keeps_to_it():
    model = fewer.attach(tiny(layers=6), LengthAdaptive(drop=0.4))
    batch, spec = ragged(model, [39, 30, 38]), fewer.attachment(model).spec
    points, ratios = policy_of(model).operating_points(), []
    assert 20 <= len(points.path) <= 24
    assert list(points.path) == sorted(points.path, reverse=True)
    for point in points.path:
        fewer.set_threshold(model, threshold=point)
        ratios.append(float(spec.flops_ratio(read(model, batch)[1])))
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 0.6 * ratios[0]


def test_a_budget_chooses_the_costliest_configuration_within_it():
    policy = policy_of(fewer.attach(tiny(), LengthAdaptive(drop=0.4)))
    ratios = policy.ratios.tolist()
    assert max(ratios) < 1
    for row in (0, 7, 15):
        policy.budget.fill_(ratios[row])
        assert policy.configuration() == tuple(policy.archive[row].tolist())
        policy.budget.fill_(ratios[row] - 1e-4)
        assert policy.configuration() == tuple(policy.archive[row + 1].tolist())
    policy.budget.fill_(1.0)
    assert policy.configuration() == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("budget", [0.0, 0.01, 1.01])
def test_a_budget_that_no_configuration_keeps_to_is_refused(budget):
    model = fewer.attach(tiny(), LengthAdaptive())
    with pytest.raises(ValueError, match="threshold must be a share of the FLOPs from 0"):
        fewer.set_threshold(model, threshold=budget)


def test_given_lengths_are_in_force_from_the_start():
    model = fewer.attach(tiny(), LengthAdaptive(lengths=(0.75, 0.5, 0.25)))
    _, trace = read(model, ragged(model, [12, 4]))
    assert [layer.read.tolist() for layer in trace.layers] == [[9, 3], [6, 2], [3, 2]]
    policy = policy_of(model)
    before = policy.archive.clone()
    policy.calibrate(PHASE, calibration_data(lambda: pytest.fail("nothing is searched")))
    assert torch.equal(policy.archive, before)


@pytest.mark.parametrize("task", TASKS)
def test_the_distance_of_the_full_model_from_itself_is_0_and_padding_does_not_count(task):
    model = fewer.attach(tiny(task=task), LengthAdaptive(drop=0.5))
    phase = LengthAdaptive(drop=0.5).phases()[0]
    losses = []
    for columns in (12, 20):
        batch, passes = ragged(model, columns=columns), []
        for number in (0, 1):
            with running(model, phase.of_pass(number)), fewer.record() as traces, torch.no_grad():
                logits = fewer.attachment(model).head.get_logits(model(**batch))
            passes.append(training_batch(traces[0], logits))
        full, smallest = passes
        policy = policy_of(model)
        assert float(policy.loss(replace(full, teacher=full))) == pytest.approx(0, abs=1e-6)
        losses.append(float(policy.loss(replace(smallest, teacher=full))))
    assert losses[0] > 1e-3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_pruned_tokens_may_answer_a_question():
    """In other methods a pruned token is no answer; here its last state is read."""
    lengths = (0.5, 0.3, 0.1)
    model = fewer.attach(tiny(task="QuestionAnswering"), LengthAdaptive(lengths=lengths))
    batch = ragged(model)
    logits, trace = read(model, batch)
    pruned = (trace.layers_read < 3) & batch["attention_mask"].bool()
    assert pruned.any()
    assert not trace.dropped.any()
    assert (logits[pruned] > -1e6).all()


def test_a_sweep_walks_the_budgets():
    model = fewer.attach(tiny(layers=6), LengthAdaptive(drop=0.4))
    tokenizer = word_tokenizer()
    rows = [tokenizer(" ".join(["w1 w2 w3"] * size)) for size in (1, 8, 4, 12)]
    columns = {name: [row[name] for row in rows] for name in ("input_ids", "attention_mask")}
    encoded = Dataset.from_dict({**columns, "length": [len(ids) for ids in columns["input_ids"]]})
    points = sweep(model, encoded, tokenizer, TextScorer([0, 1, 2, 0]), thresholds=(0.9, 0.6, 0.5))
    assert [point["threshold"] for point in points] == [None, 0.9, 0.6, 0.5]
    flops = [point["flops_per_text"] for point in points]
    assert flops == sorted(flops, reverse=True)
    assert flops[-1] < 0.7 * flops[0]
    assert present_threshold(model) is None  # a sweep changes no model
    assert present_threshold(fewer.set_threshold(model, threshold=0.6)) == pytest.approx(0.6)


def test_the_search_without_labels_prefers_what_answers_as_the_full_model():
    model = fewer.attach(tiny(), replace(QUICK, target=None, iterations=0))
    policy, spec, batch = policy_of(model), fewer.attachment(model).spec, ragged(model)

    def passes():
        with torch.no_grad(), fewer.record() as traces:
            logits = model(**batch).logits
        yield training_batch(traces[0], logits)

    policy.calibrate(PHASE, calibration_data(batches=passes))
    assert policy.operating_points().is_never
    path = policy.operating_points().path
    assert len(path) >= 2
    full, distances = read(model, batch)[0], []
    for point in path:
        fewer.set_threshold(model, threshold=point)
        logits, trace = read(model, batch)
        assert float(spec.flops_ratio(trace)) == pytest.approx(point, abs=1e-3)
        student, teacher = logits.log_softmax(-1), full.log_softmax(-1)
        distances.append(float((student.exp() * (student - teacher)).sum(-1).mean()))
    assert distances == sorted(distances)  # on a front, fewer FLOPs are further away


def test_in_a_stack_the_search_runs_with_the_parts_before_it():
    method = replace(QUICK, iterations=0)
    model = fewer.attach(tiny(), Stack((fewer.LTP(final_threshold=0.05), method)))
    batch, phases = ragged(model), []
    (phase,) = Stack((fewer.LTP(), method)).phases()[2:]

    def passes(current):
        phases.append(current)
        with torch.no_grad(), running(model, current), fewer.record() as traces:
            logits = model(**batch).logits
        yield training_batch(traces[0], logits, torch.zeros(5, dtype=torch.long))

    data = replace(calibration_data(phase=phase), run=passes)
    policy_of(model).calibrate(phase, data)
    assert {(current.part, current.apply) for current in phases} == {((1,), "compact")}
    assert len(phases) == 1 + method.population


@pytest.mark.parametrize("target", [0.6, 0.75])
def test_training_meets_its_target_and_leaves_a_curve(tmp_path, target):
    method = replace(QUICK, target=target)
    rows = synthetic.texts(200)
    model = synthetic.run(tmp_path, method=method, train=rows)
    policy = policy_of(model)
    assert float(policy.budget) == pytest.approx(target, abs=0.01)
    assert synthetic.share(model, rows) == pytest.approx(target, abs=0.03)  # 20 rows were held out
    shares = [synthetic.share(model, rows)]
    points = policy.operating_points()
    for point in points.path:
        fewer.set_threshold(model, threshold=point)
        shares.append(synthetic.share(model, rows))
    assert min(shares) < target - 0.05
    fewer.set_threshold(model, threshold=points.path[-1])
    fewer.save(model, tmp_path / "cheapest")
    loaded = fewer.load(tmp_path / "cheapest")
    assert policy_of(loaded).configuration() == policy.configuration()
    fewer.set_threshold(loaded, threshold=points.path[0])  # another budget of the same archive
    assert synthetic.share(loaded, rows) > shares[-1]


def test_a_target_below_the_smallest_configuration_is_warned_of(tmp_path):
    method = replace(QUICK, drop=0.1, target=0.2, iterations=0, epochs=1)
    with pytest.warns(UserWarning, match="not the target of 0.2: that is its smallest"):
        model = synthetic.run(tmp_path, method=method, dense=None)
    policy = policy_of(model)
    assert float(policy.budget) == pytest.approx(float(policy.ratios.min()))
