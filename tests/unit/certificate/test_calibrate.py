import copy
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
)

import fewer
from fewer.certificate.bench import Bench, encode_bench
from fewer.certificate.calibrate import calibrate, operating_runs
from fewer.certificate.certificate import certificate_of
from fewer.certificate.p_values import binomial_p_value, binomial_upper_bound
from fewer.core.stack import Stack
from fewer.hf.optimize import precision_of
from fewer.kernels.cpu.library import best_isa
from fewer.measure.exit_runs import PointRuns
from fewer.measure.sweep import present_threshold
from fewer.methods.exits import ProbeExit
from fewer.methods.pruning import TrainingFree
from fewer.tasks.qa_metrics import normalize_answer
from tests.unit.certificate.models import TEXTS, classifier
from tests.unit.conftest import WORDS

STACK = Stack((TrainingFree(target=0.7), ProbeExit()))
LOOSE = {"max_disagreement": 0.2, "confidence": 0.9}


@pytest.fixture(autouse=True)
def flops_for_seconds(monkeypatch):
    """Let a run take as many seconds as FLOPs, so that no choice depends on the machine."""
    run = Bench._run

    def run_by_flops(bench, point):
        fields = run(bench, point)
        assert fields["seconds"] > 0
        return {**fields, "seconds": float(fields["flops"].sum())}

    monkeypatch.setattr(Bench, "_run", run_by_flops)


def with_exits(model_folder, **settings):
    """Put heads on that are certain of some texts, and not always of the model's answer."""
    model, tokenizer = classifier(model_folder)
    torch.manual_seed(4)
    fewer.attach(model, fewer.EarlyExit(**settings))
    with torch.no_grad():
        for head in fewer.attachment(model).policy.modules():
            if isinstance(head, torch.nn.Linear) and head.out_features == 2:
                head.weight.normal_(0, 0.5)
    return model, tokenizer


def test_the_most_eager_point_that_passes_is_set(model_folder):
    """Repeated by hand: answers at each point against those with nothing left out."""
    model, tokenizer = with_exits(model_folder)
    certificate = calibrate(model, tokenizer, TEXTS, **LOOSE)
    points = fewer.attachment(model).policy.operating_points()
    points.set_never()
    full = fewer.predict(model, tokenizer, TEXTS).argmax(-1)
    last = None
    for point in points.path:
        points.set(point)
        errors = int((fewer.predict(model, tokenizer, TEXTS).argmax(-1) != full).sum())
        if binomial_p_value(errors, len(TEXTS), 0.2) > 0.1:
            break
        last, changed = point, errors
    assert certificate.point == pytest.approx(last)
    assert certificate.changed == changed
    assert certificate.texts == 80
    assert certificate.p_value <= 0.1
    assert certificate.flops_share <= 1.05
    assert certificate.tested == points.path[: len(certificate.tested)]


def test_the_point_is_set_and_the_certificate_shown_saved_and_loaded(model_folder, tmp_path):
    model, tokenizer = with_exits(model_folder)
    certificate = calibrate(model, tokenizer, TEXTS, **LOOSE)
    assert float(fewer.attachment(model).policy.operating_points().value) == pytest.approx(
        certificate.point
    )
    assert certificate_of(model) == certificate
    assert "max_disagreement" in repr(model)
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert certificate_of(loaded) == certificate
    expected = fewer.predict(model, tokenizer, TEXTS)
    torch.testing.assert_close(fewer.predict(loaded, tokenizer, TEXTS), expected)


def test_another_threshold_or_method_loses_it(model_folder):
    model, tokenizer = with_exits(model_folder)
    calibrate(model, tokenizer, TEXTS, **LOOSE)
    fewer.set_threshold(model, threshold=0.5)
    assert certificate_of(model) is None
    calibrate(model, tokenizer, TEXTS, **LOOSE)
    assert certificate_of(fewer.attach(model)) is None


def test_a_dense_model_gets_training_free_pruning(model_folder):
    model, tokenizer = classifier(model_folder)
    before = fewer.predict(model, tokenizer, TEXTS).argmax(-1)
    certificate = calibrate(model, tokenizer, TEXTS, max_disagreement=0.3, confidence=0.9)
    assert fewer.attachment(model).method.rule in ("cumulative", "received")
    assert certificate.texts == 56  # 24 were searched with
    after = fewer.predict(model, tokenizer, TEXTS).argmax(-1)
    assert float((after != before).float().mean()) <= 0.5
    assert certificate.flops_share < 1


def test_with_more_texts_a_dense_model_gets_what_reads_least(model_folder):
    """States of random layers tell the answer well, so that exits read less than pruning."""
    model, tokenizer = classifier(model_folder)
    texts = [f"{text} {WORDS[number % 5]}" for number in range(2) for text in TEXTS]
    certificate = calibrate(model, tokenizer, texts, max_disagreement=0.3, confidence=0.9)
    method = fewer.attachment(model).method
    assert method in (ProbeExit(), Stack((TrainingFree(), ProbeExit())))
    present = fewer.attachment(model).policy.operating_points().present
    assert present == pytest.approx(certificate.point)
    assert certificate.flops_share < 0.9


def test_a_stack_is_certified_as_one(model_folder, tmp_path):
    """Both settings are turned along one path, and both are saved."""
    model, tokenizer = classifier(model_folder)
    fewer.prune(model, tokenizer, TEXTS, method=STACK)
    texts = [f"{text} {WORDS[number % 5]}" for number in range(2) for text in TEXTS]
    certificate = calibrate(model, tokenizer, texts, max_disagreement=0.3, confidence=0.9)
    assert certificate.texts == 112  # the others made the path
    assert len(certificate.point) == 2
    for strict, eager in pairwise(certificate.tested):
        assert eager[0] > strict[0] or eager[1] < strict[1]  # a factor grows, a margin falls
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert certificate_of(loaded) == certificate
    points = fewer.attachment(loaded).policy.operating_points()
    assert points.present == pytest.approx(certificate.point)
    fewer.set_threshold(loaded, threshold=(0.5, 2.0))
    assert points.present == (0.5, 2.0)
    assert present_threshold(loaded) == (0.5, 2.0)


def test_a_dense_tagger_is_calibrated_on_sentences(model_folder):
    model, tokenizer = classifier(model_folder, AutoModelForTokenClassification, num_labels=3)
    sentences = [text.split() for text in TEXTS] * 2
    certificate = calibrate(model, tokenizer, sentences, max_disagreement=0.4, confidence=0.9)
    assert certificate.texts == 112
    assert not isinstance(fewer.attachment(model).method, fewer.Dense)


@pytest.mark.skipif(best_isa(torch.int8) is None, reason="the processor must multiply int8")
def test_a_precision_is_part_of_the_promise(model_folder):
    """The teacher is the model in fp32: differences are those of exits and of int8 together."""
    model, tokenizer = with_exits(model_folder)
    full = copy.deepcopy(model)
    certificate = calibrate(model, tokenizer, TEXTS, precision="int8", **LOOSE)
    assert certificate.precision == precision_of(model)
    fewer.attachment(full).policy.operating_points().set_never()
    wanted = fewer.predict(full, tokenizer, TEXTS).argmax(-1)
    found = fewer.predict(model, tokenizer, TEXTS).argmax(-1)
    assert int((found != wanted).sum()) == certificate.changed


def test_a_budget_is_kept_and_what_may_differ_is_bounded(model_folder):
    model, tokenizer = with_exits(model_folder)
    certificate = calibrate(model, tokenizer, TEXTS, flops_share=0.7, confidence=0.9)
    points = fewer.attachment(model).policy.operating_points()
    assert points.value.item() == pytest.approx(certificate.point)
    strict = points.path[points.path.index(certificate.point) - 1]
    shares = dict(
        zip(points.path, operating_runs(model, tokenizer, TEXTS).flops_shares, strict=True)
    )
    assert shares[certificate.point] < 0.75  # of all texts; it was chosen on a part
    assert shares[strict] > 0.6
    expected = binomial_upper_bound(certificate.changed, 56, 0.9)
    assert certificate.max_disagreement == pytest.approx(expected)
    assert certificate_of(model) == certificate


def test_a_budget_for_a_dense_model_chooses_what_changes_least(model_folder):
    model, tokenizer = classifier(model_folder)
    certificate = calibrate(model, tokenizer, TEXTS * 2, flops_share=0.8, confidence=0.9)
    assert certificate.flops_share < 0.85
    assert certificate.changed < 112


def test_a_budget_that_no_point_reaches_and_two_goals_are_refused(model_folder):
    model, tokenizer = with_exits(model_folder)
    with pytest.raises(ValueError, match="flops_share must be") as refused:
        calibrate(model, tokenizer, TEXTS, flops_share=0.01)
    least = float(re.search(r"must be ([0-9.]+)", str(refused.value))[1])
    assert calibrate(model, tokenizer, TEXTS, flops_share=least).flops_share <= least
    with pytest.raises(ValueError, match="latency_ms must be"):
        calibrate(model, tokenizer, TEXTS, latency_ms=1e-6)


def test_milliseconds_are_a_budget_too(model_folder, monkeypatch):
    """A text takes as many milliseconds as it reads hundredths of the FLOPs, on this machine."""
    model, tokenizer = with_exits(model_folder)
    points = fewer.attachment(model).policy.operating_points()
    monkeypatch.setattr(
        Bench, "time_alone", lambda bench, *at: 100 * Bench.run_at(bench, *at).share
    )
    certificate = calibrate(model, tokenizer, TEXTS, latency_ms=70.0, confidence=0.9)
    by_share = calibrate(model, tokenizer, TEXTS, flops_share=0.7, confidence=0.9)
    assert certificate == by_share
    assert points.value.item() == pytest.approx(certificate.point)


def test_texts_alone_are_timed(model_folder):
    model, tokenizer = with_exits(model_folder)
    bench = encode_bench(model, tokenizer, TEXTS, None, None)
    points = fewer.attachment(model).policy.operating_points()
    assert 0.01 < bench.time_alone(points, points.never) < 1000
    assert points.is_never


def test_with_labels_right_answers_that_become_wrong_count(model_folder):
    model, tokenizer = with_exits(model_folder)
    changed = calibrate(copy.deepcopy(model), tokenizer, TEXTS, max_disagreement=0.5)
    points = fewer.attachment(model).policy.operating_points()
    points.set_never()
    full = fewer.predict(model, tokenizer, TEXTS).argmax(-1)
    names = [model.config.id2label[int(label)] for label in full]
    alike = calibrate(copy.deepcopy(model), tokenizer, TEXTS, labels=names, max_drop=0.5)
    assert (alike.changed, alike.point) == (changed.changed, changed.point)
    assert alike.counts == "worse"
    assert "become wrong" in alike.promise
    wrong = (1 - full).tolist()
    none = calibrate(copy.deepcopy(model), tokenizer, TEXTS, labels=wrong, max_drop=0.5)
    assert none.changed == 0  # no answer was right
    model.config.id2label = {0: "1", 1: "2"}  # names that are numbers count as names
    by_name = calibrate(
        model, tokenizer, TEXTS, labels=[int(label) + 1 for label in full], max_drop=0.5
    )
    assert by_name.changed == changed.changed


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["LABEL_0"], "labels must be as many"),
        (["good"] * 80, "labels must be of"),
        ([2] * 80, "2"),
    ],
)
def test_labels_that_are_not_the_models_are_refused(model_folder, labels, told):
    with pytest.raises(ValueError, match=told):
        calibrate(*with_exits(model_folder), TEXTS, labels=labels, max_drop=0.5)


def test_one_that_was_interrupted_goes_on_and_ends_alike(model_folder, tmp_path, monkeypatch):
    texts = TEXTS * 2
    settings = {"max_disagreement": 0.3, "confidence": 0.9}
    expected = calibrate(*classifier(model_folder), texts, **settings)
    run, passes = Bench._run, []

    def interrupt(bench, point):
        passes.append(point)
        if len(passes) == 20:
            raise KeyboardInterrupt
        return run(bench, point)

    monkeypatch.setattr(Bench, "_run", interrupt)
    settings["output_dir"] = tmp_path / "passes"
    with pytest.raises(KeyboardInterrupt):
        calibrate(*classifier(model_folder), texts, **settings)
    monkeypatch.setattr(
        Bench, "_run", lambda bench, point: passes.append(point) or run(bench, point)
    )
    with pytest.raises(ValueError, match="resume"):
        calibrate(*classifier(model_folder), texts, **settings)
    settings["resume"] = True
    with pytest.raises(ValueError, match="risk"):
        calibrate(*classifier(model_folder), texts, **{**settings, "max_disagreement": 0.2})
    model, tokenizer = classifier(model_folder)
    certificate = calibrate(model, tokenizer, texts, **settings)
    assert certificate == expected
    count = len(passes)
    again = calibrate(*classifier(model_folder), texts, **settings)
    assert again == expected
    assert len(passes) == count  # nothing is computed again
    present = fewer.attachment(model).policy.operating_points().present
    assert present == pytest.approx(certificate.point)


def test_what_cannot_be_certified_reads_everything_with_a_warning(model_folder):
    model, tokenizer = with_exits(model_folder)
    with torch.no_grad():  # exits that always answer otherwise than the model
        model.classifier.bias.copy_(torch.tensor([50.0, -50.0]))
        for head in fewer.attachment(model).policy.modules():
            if isinstance(head, torch.nn.Linear) and head.out_features == 2:
                head.weight.zero_()
                head.bias.copy_(torch.tensor([-50.0, 50.0]))
    with pytest.warns(UserWarning, match="max_disagreement"):
        certificate = calibrate(model, tokenizer, TEXTS, max_disagreement=0.05, confidence=0.9)
    assert certificate.point is None
    assert fewer.attachment(model).policy.operating_points().is_never
    assert "nothing is certified" in certificate.promise


def test_the_conditional_promise_counts_the_texts_that_read_less(model_folder):
    model, tokenizer = with_exits(model_folder)
    texts = TEXTS * 2
    certificate = calibrate(
        model, tokenizer, texts, conditional=True, max_disagreement=0.8, confidence=0.9
    )
    assert certificate.conditional
    assert certificate.texts <= 112  # of those not searched with
    assert "read less" in certificate.promise


def test_tags_and_numbers_are_certified_too(model_folder):
    tagger, tokenizer = classifier(model_folder, AutoModelForTokenClassification, num_labels=3)
    fewer.attach(tagger, fewer.METHODS["tokee"]())
    sentences = [text.split() for text in TEXTS]
    certificate = calibrate(tagger, tokenizer, sentences, max_disagreement=0.9, confidence=0.9)
    assert certificate.texts == 80
    regressor, _ = classifier(model_folder, num_labels=1)
    fewer.attach(regressor, fewer.EarlyExit(criterion="patience"))
    with pytest.warns(UserWarning, match="max_disagreement"):  # its heads are not trained
        certificate = calibrate(regressor, tokenizer, TEXTS, max_disagreement=0.5, confidence=0.9)
    assert certificate.texts == 80


def test_too_few_texts_are_told_with_the_number_needed(model_folder):
    model, tokenizer = with_exits(model_folder)
    with pytest.raises(ValueError, match=r"texts.*299.*got 80"):
        calibrate(model, tokenizer, TEXTS)


def test_an_unknown_precision_is_told_before_any_pass(model_folder, tmp_path):
    with pytest.raises(ValueError, match=r"precision.*int4"):
        calibrate(
            *with_exits(model_folder), TEXTS, precision="int4", output_dir=tmp_path / "passes"
        )
    assert not (tmp_path / "passes").exists()


@pytest.mark.parametrize("settings", [{"max_disagreement": 0.0}, {"confidence": 1.0}])
def test_values_out_of_range_are_told_by_name(model_folder, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        calibrate(*with_exits(model_folder), TEXTS, **settings)


def test_methods_without_operating_points_and_questions_are_refused(model_folder):
    model, tokenizer = classifier(model_folder)
    fewer.attach(model, fewer.LTP())
    with pytest.raises(ValueError, match="operating points"):
        calibrate(model, tokenizer, TEXTS, **LOOSE)
    embedder = AutoModel.from_pretrained(model_folder).eval()
    with pytest.raises(ValueError, match="model must"):
        calibrate(embedder, tokenizer, TEXTS, **LOOSE)


def test_answers_to_questions_are_certified(model_folder):
    reader, tokenizer = classifier(model_folder, AutoModelForQuestionAnswering)
    fewer.attach(reader, fewer.EarlyExit())
    questions = [f"what {text.split()[0]} ?" for text in TEXTS]
    certificate = calibrate(
        reader, tokenizer, questions, text_pairs=TEXTS, max_disagreement=0.9, confidence=0.9
    )
    points = fewer.attachment(reader).policy.operating_points()
    answers = fewer.answer(reader, tokenizer, questions, TEXTS)
    points.set_never()
    full = fewer.answer(reader, tokenizer, questions, TEXTS)
    texts = [[normalize_answer(span.text) for span in spans] for spans in (answers, full)]
    assert certificate.texts == 80
    assert certificate.changed == sum(new != old for new, old in zip(*texts, strict=True))
    with pytest.raises(ValueError, match="contexts"):
        calibrate(reader, tokenizer, questions, **LOOSE)


def test_a_dense_model_of_questions_gets_pruning(model_folder):
    reader, tokenizer = classifier(model_folder, AutoModelForQuestionAnswering)
    questions = [f"what {text.split()[0]} ?" for text in TEXTS]
    certificate = calibrate(reader, tokenizer, questions, text_pairs=TEXTS, flops_share=0.9)
    assert isinstance(fewer.attachment(reader).method, TrainingFree)
    assert certificate.texts == 56


def test_a_certificate_is_checked_when_it_is_read(model_folder):
    model, tokenizer = with_exits(model_folder)
    calibrate(model, tokenizer, TEXTS, **LOOSE)
    attached = fewer.attachment(model)
    broken = {**attached.settings.certificate, "p_value": 2.0}
    attached.settings = replace(attached.settings, certificate=broken)
    with pytest.raises(ValueError, match="p_value"):
        certificate_of(model)


def test_all_points_are_run_against_the_full_model(model_folder):
    model, tokenizer = with_exits(model_folder)
    points, changed, shares = operating_runs(model, tokenizer, TEXTS)
    assert points == fewer.attachment(model).policy.operating_points().path
    assert changed.shape == (len(points), 80)
    assert shares == sorted(shares, reverse=True)
    assert changed[-1].any()


def test_a_point_that_was_told_wrongly_is_run(model_folder, monkeypatch):
    """Where other answers change in earnest than were told, all points are run."""
    model, tokenizer = with_exits(model_folder)
    expected = calibrate(model, tokenizer, TEXTS, **LOOSE)
    run = PointRuns.run

    def tell_no_change(runs, points, title):
        answers, traces, order = run(runs, points, title)
        never.append(answers)
        return never[0], traces, order

    never = []
    monkeypatch.setattr(PointRuns, "run", tell_no_change)
    model, tokenizer = with_exits(model_folder)
    certificate = calibrate(model, tokenizer, TEXTS, **LOOSE)
    assert certificate == expected
