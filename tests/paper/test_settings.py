"""Settings by default: the papers' where they name them, else ours; a change must be meant.

Sources: the papers and the authors' released commands; `ours` marks what they do not say, or what
"What differs from the authors' code" of the method explains.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from fewer import LTP, Dense, MagicPyramid
from fewer.core.cost import LayerCost, ModelSpec, Task
from fewer.methods.attention import BigBird, DeFormer, Longformer
from fewer.methods.exits import (
    PABEE,
    SENTEE,
    TOKEE,
    BERxiT,
    Cascade,
    DeeBERT,
    EarlyExit,
    FastBERT,
    ProbeExit,
    RightTool,
)
from fewer.methods.exits.criteria import CRITERIA, ExitEvidence
from fewer.methods.exits.tokee import DRAWN, EAGER, PATIENT, WINDOWS
from fewer.methods.pruning import (
    TRBERT,
    BlockSkim,
    LengthAdaptive,
    LinearShortcut,
    PoWERBERT,
    SpAtten,
    TrainingFree,
    Transkimmer,
)
from fewer.methods.registry import METHODS

EXITS = {
    "layers": None,  # after all but the last
    "threshold": None,  # the criterion's own
    "target": None,
    "patience": 1,
    "tolerance": 0.1,
    "temperature": False,
    "weights": "equal",
    "learning_rates": (2e-5, 1e-3),  # 2e-5 in all papers; of the heads ours
}
FASTBERT = {
    "head": "attentive",
    "criterion": "normalised_entropy",
    "training": "frozen",
    "teacher": "last",
    "epochs": 2.0,  # ours; theirs 5 to 10
}
WANTED = {
    EarlyExit: EXITS | FASTBERT,
    FastBERT: EXITS | FASTBERT,
    DeeBERT: EXITS
    | {"head": "pooled", "criterion": "entropy", "training": "frozen", "teacher": "labels"}
    | {"epochs": 3.0},
    PABEE: EXITS
    | {"head": "shared", "criterion": "patience", "training": "joint", "teacher": "labels"}
    | {"weights": "depth", "epochs": 5.0},
    BERxiT: EXITS
    | {"head": "pooled", "criterion": "learned", "training": "alternating", "teacher": "labels"}
    | {"epochs": 3.0},
    # ours, no paper: 1.5 errors of a probe
    ProbeExit: {"margin": None, "target": None, "only_first_last": True},
    Cascade: {"margin": 1.0},  # ours; the Cascade Transformer drops fixed shares
    RightTool: EXITS
    | {"head": "mixed", "criterion": "probability", "training": "joint", "teacher": "labels"}
    | {"temperature": True, "epochs": 3.0, "learning_rates": (3e-5, 1e-3)},
    SENTEE: {
        "layers": None,
        "threshold": None,
        "target": None,
        "pool": "max",
        "epochs": 5.0,  # ours; theirs 20
        "learning_rates": (3e-5, 1e-3),  # ours; theirs 5e-6, 5e-5
    },
    TOKEE: {
        "layers": None,
        "window": 5,
        "threshold": None,
        "target": None,
        "cap": 0.5,
        "keep_norm": True,
        "epochs": (5.0, 2.0),  # ours; theirs 20 and 30
        "learning_rates": (3e-5, 1e-3),
    },
    LTP: {
        "final_threshold": 0.01,
        "temperature": 2e-4,  # searched from 1e-4 to 2e-3
        "strength": None,
        "target": None,
        "soft_rule": "attention",  # ours
        "reference_length": None,  # ours
        "ranking": 0.0,  # of ToP; theirs 1e-5 to 1e-2
        "restore": False,
        "epochs": (1.0, 0.5),  # theirs 1 (large sets) and 5
        "learning_rates": (2e-5, 1e-4, 5e-6),
    },
    BlockSkim: {
        "block": 32,
        "threshold": 0.3,  # ours; theirs is not published
        "target": None,
        "alpha": 0.1,
        "balance": 20.0,  # of SQuAD
        "sees": "diagonal",
        "prescreen": False,  # ours, as distil
        "distil": 0.0,
        "evidence": False,
        "training": "joint",
        "epochs": 2.0,
        "skimming_epochs": 0.0,
        "learning_rates": (3e-5, 1e-3),
    },
    Transkimmer: {
        "strength": None,  # 0.5, of GLUE and IMDB; theirs 0.2 to 0.5
        "target": None,  # ours
        "threshold": 0.5,
        "temperature": 1.0,
        "epochs": 3.0,
        "learning_rates": (2e-5, 1e-3),  # of the networks ours; theirs 2e-5
    },
    TRBERT: {
        "layers": None,  # 2 and L / 2 + 1
        "length_costs": (1.0, 1.0),  # of IMDB
        "target": None,  # ours
        "threshold": 0.5,
        "draws": 2,  # ours, with another baseline; theirs 8
        "epochs": (0.5, 3.0, 3.0),  # of the first ours
        "learning_rates": (3e-5, 1e-3),  # of the networks ours; theirs 3e-5
    },
    LengthAdaptive: {
        "drop": 0.2,
        "layer_drop": 0.0,  # ours; theirs 0.2
        "random_models": 2,
        "divergence": "reverse",  # of their code
        "target": None,
        "lengths": None,
        "population": 20,
        "iterations": 5,  # ours; theirs 30
        "offspring": 10,  # ours; theirs 30
        "epochs": 5.0,
        "learning_rate": 2e-5,  # of GLUE
    },
    DeFormer: {
        "lower": None,  # ours: half of the layers; theirs 9 of 12
        "distillation": 1.0,
        "similarity": 1.0,
        "temperature": 2.0,
        "epochs": 2.0,
        "learning_rate": 5e-5,
    },
    Longformer: {
        "attention_window": 512,
        "global_tokens": "auto",
        "epochs": 2.0,
        "learning_rate": 3e-5,
    },
    BigBird: {
        "block_size": 64,
        "num_random_blocks": 3,
        "global_tokens": "ends",
        "epochs": 2.0,
        "learning_rate": 3e-5,
    },
    LinearShortcut: {"target": 0.8, "layer": None, "shortest": 64, "ridge": 1e-3},
    TrainingFree: {
        "rule": "cumulative",
        "target": 0.6,
        "first_layer": 1,
        "search": True,
        "merge": True,
        "only_first_last": True,
    },
    SpAtten: {
        "token_ratios": (0.1, 0.6),
        "head_ratios": (0.0, 0.0),
        "target": None,
        "epochs": 1.0,
        "learning_rate": 2e-5,
    },
    PoWERBERT: {
        "retention": None,
        "target": None,
        "reference_length": 64,
        "counts": "relative",
        "strength": 2e-4,
        "epochs": (3.0, 3.0),
        "learning_rates": (3e-5, 5e-4, 3e-5),
    },
    MagicPyramid: {"pruning": LTP(target=0.5), "exits": FastBERT(), "joint_epochs": None},
    Dense: {},
}
NAMED = [kind for kind in WANTED if kind is not Dense]
COST = LayerCost(query=1, key_value=2, output=1, ffn=8, pair=4, score=2)


def test_every_method_but_the_stack_is_told_of_here():
    assert {kind.__name__ for kind in METHODS.values()} - {"Stack"} == {
        kind.__name__ for kind in WANTED
    }


@pytest.mark.parametrize("kind", WANTED)
def test_settings_by_default_are_those_that_are_documented(kind):
    one = kind()
    assert {field.name: getattr(one, field.name) for field in fields(one)} == WANTED[kind]


@pytest.mark.parametrize("kind", NAMED)
def test_settings_are_given_by_name(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(1)


@pytest.mark.parametrize("kind", NAMED)
def test_a_description_cannot_be_changed(kind):
    one = kind()
    with pytest.raises(FrozenInstanceError):
        setattr(one, fields(one)[0].name, None)


def test_lambda_is_a_tenth_and_with_a_target_1():
    assert (LTP().weight, LTP(target=0.5).weight, LTP(strength=0.02).weight) == (0.1, 1.0, 0.02)


def test_tokee_draws_from_the_windows_and_thresholds_of_the_authors_and_a_window_of_3():
    """Theirs: k of {3, 5, ..., 15} from the given minimum on, 5; delta up to 0.25."""
    assert WINDOWS == (3, 5, 7, 9, 11, 13, 15)
    assert DRAWN == (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25)
    assert (EAGER, PATIENT) == (2, 4)


@pytest.mark.parametrize(
    ("name", "default", "never", "minimum", "maximum"),
    [
        ("entropy", 0.1, 0.0, 0.0, float("inf")),
        ("normalised_entropy", 0.1, 0.0, 0.0, 1.0),
        ("probability", 0.9, 1.0078125, 0.0, 1.0),
        ("patience", 3.0, float("inf"), 1.0, float("inf")),
        ("patient_confidence", 0.3, 0.0, 0.0, 1.0),
        ("learned", 0.1, 0.0, 0.0, 1.0),
    ],
)
def test_each_criterion_has_its_range_and_its_default(name, default, never, minimum, maximum):
    criterion = CRITERIA[name]
    assert (criterion.default, criterion.never_exit) == (default, never)
    assert (criterion.minimum, criterion.maximum) == (minimum, maximum)
    assert criterion.uses_previous_exits == (name in ("patience", "patient_confidence"))
    assert criterion.below == (name not in ("probability", "patience"))
    assert criterion.continuous == (name != "patience")


def test_sweeps_try_these_thresholds():
    """Shares of the largest uncertainty from strict to eager; of patience all counts."""
    shares = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    shares += (0.95, 0.99, 0.999, 1.0)
    assert CRITERIA["normalised_entropy"].grid(4, 5) == shares
    assert CRITERIA["patient_confidence"].grid(4, 5) == shares
    assert CRITERIA["learned"].grid(4, 5) == (0.005, *shares)
    # of ln 2 = 0.693147, and of the half between 1 / 2 and 1
    assert CRITERIA["entropy"].grid(2, 5)[:4] == (0.0069, 0.0139, 0.0347, 0.0693)
    assert CRITERIA["probability"].grid(2, 5)[:4] == (0.995, 0.99, 0.975, 0.95)
    assert CRITERIA["patience"].grid(2, 5) == (4.0, 3.0, 2.0, 1.0)
    assert ExitEvidence.__dataclass_fields__["tolerance"].default == 0.0


@pytest.mark.parametrize(
    ("method", "task"),
    [
        *((kind(), Task.TEXT) for kind in (EarlyExit, RightTool, DeeBERT, FastBERT, PABEE, BERxiT)),
        *(
            (SENTEE(), Task.TOKEN),
            (TOKEE(), Task.TOKEN),
            (BlockSkim(), Task.SPAN),
            (FastBERT(), Task.SPAN),
        ),
    ],
    ids=repr,
)
def test_no_text_exits_until_a_threshold_is_set(method, task):
    spec = ModelSpec(3, 24, 2, 0.0, (COST,) * 3, labels=2, task=task)
    points = method.build(spec).operating_points()
    assert points.is_never


@pytest.mark.parametrize(("layers", "lower"), [(2, 1), (6, 3), (12, 6), (13, 6)])
def test_deformer_splits_pairs_in_half_of_the_layers(layers, lower):
    spec = ModelSpec(layers, 2, 1, 0.0, (COST,) * layers, labels=2, task=Task.SPAN)
    assert DeFormer().build(spec).lower == lower
    assert DeFormer(lower=1).build(spec).lower == 1


@pytest.mark.parametrize(
    ("settings", "layers"), [({}, 1), ({"lower": 3}, 3), ({"lower": 4}, 3)], ids=str
)
def test_deformer_wants_a_lower_and_an_upper_layer(settings, layers):
    spec = ModelSpec(layers, 2, 1, 0.0, (COST,) * layers, labels=2, task=Task.SPAN)
    with pytest.raises(ValueError, match="a lower and an upper layer"):
        DeFormer(**settings).build(spec)


@pytest.mark.parametrize(
    "settings",
    [{"lower": 0}, {"distillation": -0.1}, {"similarity": -0.1}, {"temperature": 0.0}],
    ids=str,
)
def test_deformers_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DeFormer(**settings)


@pytest.mark.parametrize(("alpha", "beta", "teacher"), [(1.0, 0.0, True), (0.0, 0.0, False)])
def test_deformer_learns_all_of_the_model_with_its_own_loss(alpha, beta, teacher):
    (phase,) = DeFormer(distillation=alpha, similarity=beta).phases()
    assert (phase.name, phase.apply, phase.trains) == ("apart", "compact", "all")
    assert (phase.epochs, phase.learning_rate) == (2.0, 5e-5)
    assert (phase.regularise, phase.teacher, phase.task) == (True, teacher, True)
