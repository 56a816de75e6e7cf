import dataclasses
import json

import pytest

import fewer
from fewer import Method
from fewer.hf.side_file import method_from, method_to
from fewer.methods.exits import PABEE, BERxiT, DeeBERT, EarlyExit, FastBERT, RightTool
from fewer.methods.exits.early_exit import exit_layers
from tests.tiny import tiny
from tests.unit.methods.exits.parts import spec

KINDS = {
    "early_exit": EarlyExit,
    "right_tool": RightTool,
    "deebert": DeeBERT,
    "fastbert": FastBERT,
    "pabee": PABEE,
    "berxit": BERxiT,
}
every_kind = pytest.mark.parametrize("name", KINDS)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("right_tool", ("mixed", "probability", "joint", "labels", "equal", True)),
        ("deebert", ("pooled", "entropy", "frozen", "labels", "equal", False)),
        ("fastbert", ("attentive", "normalised_entropy", "frozen", "last", "equal", False)),
        ("pabee", ("shared", "patience", "joint", "labels", "depth", False)),
        ("berxit", ("pooled", "learned", "alternating", "labels", "equal", False)),
    ],
)
def test_each_paper_is_a_choice_of_parts(name, choices):
    method = KINDS[name]()
    fields = ("head", "criterion", "training", "teacher", "weights", "temperature")
    assert tuple(getattr(method, field) for field in fields) == choices


@every_kind
def test_a_method_survives_json_and_keeps_its_class(name):
    method = KINDS[name](layers=(1, 2), target=0.5, epochs=1.5, learning_rates=(1e-5, 1e-4))
    loaded = method_from(json.loads(json.dumps(method_to(method))))
    assert loaded == method
    assert type(loaded) is KINDS[name]
    assert isinstance(loaded, Method)
    assert hash(loaded) == hash(method)
    assert method_to(method)["name"] == name


def test_two_papers_are_two_methods_though_their_settings_are_equal():
    settings = dataclasses.asdict(FastBERT())
    assert EarlyExit(**settings) != FastBERT()


@pytest.mark.parametrize(
    ("training", "trains", "task", "rates"),
    [
        ("frozen", "policy", False, (1e-3, 1e-3)),
        ("joint", "all", True, (2e-5, 1e-3)),
        ("alternating", "all", True, (2e-5, 1e-3)),
    ],
)
def test_one_phase_trains_the_heads_alone_or_with_the_model(training, trains, task, rates):
    (phase,) = EarlyExit(training=training, epochs=4, learning_rates=(2e-5, 1e-3)).phases()
    assert (phase.name, phase.apply, phase.epochs) == ("exits", "observe", 4)
    assert (phase.trains, phase.task) == (trains, task)
    assert (phase.learning_rate, phase.policy_learning_rate) == rates
    assert phase.regularise
    assert phase.calibrate


@pytest.mark.parametrize(
    ("layers", "numbers"), [(None, (0, 1, 2)), ((1,), (0,)), ((3, 1), (0, 2)), ((2, 2), (1,))]
)
def test_exits_are_counted_from_1_and_kept_in_order(layers, numbers):
    assert exit_layers(layers, spec(layers=4)) == numbers
    assert EarlyExit(layers=layers).exits_of(spec(layers=4)) == numbers


@pytest.mark.parametrize("layers", [(0,), (3,), (1, 3), (-1,), ()])
def test_a_layer_that_the_model_lacks_is_refused(layers):
    with pytest.raises(ValueError, match=r"layers\b"):
        fewer.attach(tiny(layers=3), EarlyExit(layers=layers))


def test_one_layer_is_too_few():
    with pytest.raises(ValueError, match=r"two layers or more .* got 1"):
        fewer.attach(tiny(layers=1), FastBERT())


@pytest.mark.parametrize(
    "model",
    [
        ("Model", {}),
        ("TokenClassification", {}),
        ("MaskedLM", {}),
        ("SequenceClassification", {"problem_type": "regression", "num_labels": 2}),
    ],
)
@every_kind
def test_a_model_without_a_head_for_whole_texts_is_refused(name, model):
    task, settings = model
    with pytest.raises(ValueError, match="exits of whole texts need a model with a classification"):
        fewer.attach(tiny(task=task, **settings), KINDS[name]())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head": "wide"},
            "head must",
        ),
        ({"criterion": "luck"}, "criterion must"),
        ({"training": "twice"}, "training must"),
        ({"teacher": "nobody"}, "teacher must"),
        ({"weights": "heavy"}, "weights must"),
        ({"threshold": 0.1, "target": 0.5}, "threshold must"),
        ({"threshold": 3.0}, "threshold must be from 0 to 1 .*; got 3.0"),
        (
            {"threshold": 0.5, "criterion": "patience"},
            "threshold must be from 1 to inf for .* 'patience'; got 0.5",
        ),
        ({"target": 2.0}, "target must"),
        ({"patience": 0}, "patience must"),
        ({"tolerance": -1.0}, "tolerance must"),
        ({"learning_rates": (1e-3,)}, "learning_rates"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EarlyExit(**settings)


def test_heads_are_built_only_for_the_given_layers():
    model = fewer.attach(tiny(layers=6), DeeBERT(layers=(2, 4)))
    heads = fewer.attachment(model).policy.heads
    assert (len(heads.classifiers), len(heads.poolers)) == (2, 2)


@every_kind
def test_buffers_and_heads_are_saved_under_the_encoder(name):
    state = fewer.attach(tiny(), KINDS[name]()).state_dict()
    keys = {key for key in state if ".fewer.policy." in key}
    assert {"bert.fewer.policy.threshold", "bert.fewer.policy.temperature"} < keys
    assert any("classifiers.1.weight" in key for key in keys)
