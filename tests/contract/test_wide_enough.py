"""The contract is wide enough for the papers that are missing: each need played and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fewer
from fewer import Decision, Policy, Site, View
from fewer.core.phase import INFERENCE
from fewer.hf.attach import running
from fewer.methods.combined import Stack
from fewer.methods.registry import METHODS
from tests.batches import PHASE, training_batch
from tests.contract.table import counts, read
from tests.contract.wide import (
    FULL,
    SANDWICH,
    Bernoulli,
    Cumulative,
    Lengths,
    PruneHeads,
    SkimFirst,
    SoftExtract,
    policy_of,
)
from tests.rounding import assert_same
from tests.tiny import ragged, text, tiny
from tests.unit.training import synthetic

FAMILIES = ("bert", "albert", "modernbert")


def policy_acts(view: View) -> bool:
    return view.site is Site.MIDDLE


def outputs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**batch).logits
    return logits


@pytest.mark.parametrize(
    "method",
    [Lengths(), Cumulative(), PruneHeads(), SkimFirst(), Stack((Cumulative(), Cumulative()))],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_texts_one_by_one_and_mask_equals_compact(
    method: Any, family: str
) -> None:
    model = fewer.attach(tiny(family), method)
    points = policy_of(model).operating_points()
    if points is not None:
        points.set(points.path[1])
    batch = ragged(model)
    masked, masked_trace = read(model, batch, "mask")
    logits, trace = read(model, batch, "compact")
    assert torch.equal(masked_trace.layers_read, trace.layers_read)
    assert_same(counts(masked_trace), counts(trace))
    assert_same(masked, logits)
    pruned = bool(trace.dropped.any())
    assert pruned or isinstance(method, PruneHeads)
    for row in range(len(logits)):
        assert_same(outputs(model, text(batch, row))[0], logits[row])


def test_soft_extraction_scales_states_before_the_ffn_by_rank() -> None:
    model = fewer.attach(tiny(), SoftExtract())
    policy = policy_of(model)
    batch = ragged(model)
    dense, _ = read(model, batch, "compact")
    soft, _ = read(model, batch, "scale_state")
    assert torch.equal(soft, dense)  # all numbers are 1
    with torch.no_grad():
        policy.scale.copy_(torch.linspace(1, 0.1, 40).expand_as(policy.scale))
    views: dict[int, View] = {}

    def note(_: Policy, args: tuple[View]) -> None:
        if policy_acts(args[0]):
            views[args[0].layer] = args[0]

    policy.register_forward_pre_hook(note)
    with fewer.applying(model, "scale_state"):
        loss = model(**batch).logits.square().sum()
    middle = views[1]
    gate = policy.decide(middle).gate
    assert middle.tokens.roles.protected.sum() == len(batch["input_ids"])
    gate = gate.masked_fill(middle.tokens.roles.protected, 1.0)  # [CLS] is never scaled
    encoder = model.base_model
    layer = encoder.fewer.backbone(encoder).layers[1]
    after = layer.ffn(middle.tokens.hidden * gate[:, None])
    entered = views[2]
    assert len(entered.tokens.hidden) == len(after)  # no token is removed
    assert bool((gate < 1).any())
    loss.backward()
    gradient = policy.scale.grad
    assert float(gradient[:2, 1:5].abs().min()) > 0  # of texts; last, only [CLS] counts
    assert float(gradient[:, 20:].abs().max()) == 0  # ranks that no text has


def test_a_length_configuration_is_drawn_once_for_all_layers_of_a_pass() -> None:
    model = fewer.attach(tiny(), Lengths())
    policy, batch = policy_of(model), ragged(model)
    kept = {}
    for apply in ("mask", "compact"):
        torch.manual_seed(7)
        phase = replace(SANDWICH.of_pass(2), apply=apply)
        with running(model, phase), fewer.record() as traces:
            outputs(model, batch)
        kept[apply] = counts(traces[0])
    drawn = policy.drawn
    assert len(drawn) == 2  # one draw for each pass, not for each layer
    assert drawn[0] == drawn[1] == sorted(drawn[0], reverse=True)
    assert_same(kept["mask"], kept["compact"])
    with running(model, SANDWICH.of_pass(2)), fewer.record() as traces:
        outputs(model, batch)
    lengths = torch.tensor([1, 12, 2, 7, 5])
    for layer, count in zip(traces[0].layers, policy.drawn[-1], strict=True):
        assert layer.read.tolist() == lengths.clamp_max(count).tolist()


def test_a_length_configuration_is_an_operating_point() -> None:
    model = fewer.attach(tiny(), Lengths())
    points, batch = policy_of(model).operating_points(), ragged(model)
    shares = []
    for point in points.path:
        points.set(point)
        with fewer.record() as traces:
            outputs(model, batch)
        shares.append(float(fewer.attachment(model).spec.flops_ratio(traces[0])))
    assert shares[0] >= 1 > shares[1] > shares[2]
    with pytest.raises(ValueError, match="3 numbers"):
        points.set((1, 2))
    points.set_never()
    assert points.is_never


def test_one_step_runs_four_passes_and_the_first_teaches_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "lengths", Lengths)
    rows = synthetic.texts(16)
    model = synthetic.run(tmp_path, method=Lengths(), train=rows, dense=None, phases=[SANDWICH])
    policy = policy_of(model)
    assert [batch.phase.number for batch in policy.batches] == [0, 1, 2, 3]  # one step of 16 rows
    full, smallest, *_ = policy.drawn
    assert full == [FULL] * 3
    assert smallest == [1] * 3
    first, *others = policy.batches
    assert first.teacher is None
    for batch in others:
        assert torch.equal(batch.teacher.logits, first.logits.detach())
        assert not batch.teacher.logits.requires_grad
        assert not torch.equal(batch.logits, first.logits)


def test_scores_accumulate_over_the_layers_and_follow_their_tokens() -> None:
    model = fewer.attach(tiny(), Cumulative())
    batch, policy = ragged(model), policy_of(model)
    received = torch.zeros(batch["input_ids"].numel())
    rows = []

    def compare(_: Policy, args: tuple[View]) -> None:
        (view,) = args
        if not policy_acts(view):
            return
        slot, carried = view.tokens.slot, view.carried("score")
        assert (carried is None) is (view.layer == 0)
        if carried is not None:
            assert_same(carried, received[slot])
        received[slot] += view.evidence.received
        rows.append(len(slot))

    policy.register_forward_pre_hook(compare)
    with fewer.record() as traces:
        outputs(model, batch)
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[-1]
    assert list(traces[0].carried) == ["score"]


def test_two_cascades_of_a_stack_carry_their_own_scores() -> None:
    model = fewer.attach(tiny(), Stack((Cumulative(0.9), Cumulative(0.5))))
    with fewer.record() as traces:
        outputs(model, ragged(model))
    assert sorted(traces[0].carried) == ["0.score", "1.score"]


def test_reinforce_weighs_what_each_text_drew_by_its_own_loss() -> None:
    model = fewer.attach(tiny(), Bernoulli())
    policy, batch = policy_of(model), ragged(model)
    labels = torch.tensor([0, 1, 2, 0, 1])
    torch.manual_seed(3)
    with running(model, PHASE), fewer.record() as traces:
        logits = model(**batch).logits
    learned = training_batch(traces[0], logits, labels)
    expected_losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    assert_same(learned.losses, expected_losses)
    policy.loss(learned).backward()
    state, action, sequence = policy.actions[0]
    with torch.no_grad():
        probability = torch.sigmoid(policy.network(state)).squeeze(1)
        # d log p / dz = a - p
        weight = expected_losses[sequence] * (action - probability) / len(labels)
    assert_same(policy.network.weight.grad[0], (weight[:, None] * state).sum(0))
    assert 0 < float(action.mean()) < 1


def test_each_text_computes_its_own_heads() -> None:
    model = fewer.attach(tiny(), PruneHeads())
    batch = ragged(model)
    logits = outputs(model, batch)
    plain = tiny()
    dense = outputs(plain, batch)
    with torch.no_grad():  # a head whose output is multiplied by 0 is not there
        for layer in plain.bert.encoder.layer[1:]:
            layer.attention.output.dense.weight[:, 8:] = 0
    first_head_only = outputs(plain, batch)
    short = batch["attention_mask"].sum(1) < 6
    assert_same(logits[short], first_head_only[short])
    assert_same(logits[~short], dense[~short])
    assert float((dense - first_head_only).abs().min()) > 1e-3


def test_pairs_of_pruned_heads_are_not_counted() -> None:
    model = fewer.attach(tiny(), PruneHeads())
    with fewer.record() as traces:
        outputs(model, ragged(model))
    lengths = torch.tensor([1.0, 12.0, 2.0, 7.0, 5.0])
    pairs = traces[0].layers[1].extra.pairs
    assert pairs is not None
    assert pairs.tolist() == (lengths.square() * torch.where(lengths < 6, 0.5, 1.0)).tolist()


def test_pairs_of_pruned_heads_are_not_counted_in_windows_either() -> None:
    traces = []
    for method in (PruneHeads(), fewer.Dense()):
        model = fewer.attach(tiny("modernbert"), method)
        with fewer.record() as recorded:
            outputs(model, ragged(model))
        traces += recorded
    pruned, dense = (trace.layers[1].extra.pairs for trace in traces)  # of the local layer
    assert pruned is not None
    assert dense is not None
    short = torch.tensor([1.0, 12.0, 2.0, 7.0, 5.0]) < 6
    assert pruned.tolist() == (dense * torch.where(short, 0.5, 1.0)).tolist()


def test_a_predictor_prunes_before_the_first_attention() -> None:
    model = fewer.attach(tiny(), SkimFirst())
    batch = ragged(model)
    with fewer.record() as traces:
        logits = outputs(model, batch)
    kept = traces[0].layers_read > 0
    assert bool(traces[0].dropped.any())
    assert torch.equal(kept, batch["attention_mask"].bool() & ~traces[0].dropped)
    holes = batch | {"attention_mask": kept.long()}
    assert_same(logits, outputs(tiny(), holes))


class Unchecked(Policy):
    """Decides by a gate that it is given."""

    sites = frozenset({Site.MIDDLE})

    def __init__(self, gate: float, keep: bool | None) -> None:
        super().__init__()
        self.gate, self.keep = gate, keep

    def decide(self, view: View) -> Decision:
        gate = torch.full(view.tokens.slot.shape, self.gate)
        if self.keep is None:
            return Decision(gate=gate)
        return Decision.keep(torch.full_like(gate, self.keep, dtype=torch.bool), gate)


@pytest.mark.parametrize(
    ("gate", "keep"), [(0.3, True), (0.7, False), (1.5, None), (-0.1, None), (float("nan"), None)]
)
def test_a_gate_outside_its_range_or_against_the_fate_is_refused(
    gate: float, keep: bool | None
) -> None:
    model = fewer.attach(tiny())
    fewer.attachment(model).policy = Unchecked(gate, keep)
    with pytest.raises(ValueError, match="gate"):
        outputs(model, ragged(model))


def test_no_policy_of_the_library_reads_whether_it_trains() -> None:
    sources = Path(fewer.__file__).parent
    for folder in ("core", "methods"):
        for file in (sources / folder).rglob("*.py"):
            source = file.read_text()
            body = source.partition("def decide")[2].partition("\n    def ")[0]
            assert "self.training" not in body, file
    assert INFERENCE.exits
