"""Pruned tokens that end at a linear map of their state."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModel

import fewer
from fewer.core.stack import Stack
from fewer.methods.pruning import LinearShortcut, TrainingFree, linear_shortcut
from fewer.methods.pruning.linear_shortcut import LinearShortcutPolicy
from fewer.methods.pruning.streamed_ridge import StreamedRidge
from fewer.methods.pruning.token_counts import ROUNDING
from tests.tiny import tiny, word_tokenizer
from tests.unit.conftest import WORDS

LONG = [
    " ".join(f"w{(7 * row + place * (row % 5 + 1)) % 50}" for place in range(30))
    for row in range(40)
]
SHORT = ["w3 w4", "w5"]
METHOD = LinearShortcut(target=0.7, layer=1, shortest=16)


def _encoder(**options):
    return tiny(layers=3, width=16, initializer_range=0.3, **options).base_model


def _policy(model):
    return fewer.attachment(model).policy


def test_the_target_is_met_and_short_texts_are_read_whole():
    encoder, tokenizer = fewer.attach(_encoder()), word_tokenizer()
    before = fewer.embed(encoder, tokenizer, SHORT + LONG[:3], progress=False)
    fewer.prune(encoder, tokenizer, LONG, method=METHOD)
    with fewer.record() as traces:
        after = fewer.embed(encoder, tokenizer, SHORT + LONG[:3], progress=False)
    spec, trace = fewer.attachment(encoder).spec, traces[0]
    assert torch.equal(after[:2], before[:2])
    assert not torch.equal(after[2:], before[2:])
    ratio = (spec.flops(trace) / spec.dense_flops_of(trace))[trace.lengths > 16]
    assert ((ratio - 0.7).abs() < 0.02).all()


def _pairs(encoder, texts):
    """The states between attention and feed-forward network of layer 1, and the last ones."""
    inputs = word_tokenizer()(texts, return_tensors="pt", padding=True)
    states = []
    watched = encoder.encoder.layer[1].attention.register_forward_hook(
        lambda module, args, output: states.append(output[0])
    )
    with torch.no_grad():
        last = encoder(**inputs).last_hidden_state
    watched.remove()
    return inputs, states[0], last


def _with_bias(states):
    return torch.nn.functional.pad(states, (0, 1), value=1.0).double()


def _solve(states, goals):
    # states of a layer norm lie in a plane: the solution of least norm
    return torch.linalg.lstsq(_with_bias(states), goals.double(), driver="gelsd").solution


def _distances(policy, states):
    units = torch.nn.functional.normalize(states, dim=1)
    return 1 - units @ torch.nn.functional.normalize(units.sum(0), dim=0)


def _expected_errors(policy, states):
    return states @ policy.error_weight


@pytest.mark.parametrize(("by_error", "score"), [(False, _distances), (True, _expected_errors)])
def test_tokens_with_the_highest_scores_stay_and_the_others_end_at_the_map(by_error, score):
    encoder, tokenizer = _encoder(), word_tokenizer()
    inputs, states, _ = _pairs(encoder, LONG[:1])
    fewer.prune(encoder, tokenizer, LONG, method=METHOD)
    policy = _policy(encoder)
    policy.by_error.fill_(by_error)
    with torch.no_grad():
        ends = encoder(**inputs).last_hidden_state[0]
    scores = score(policy, states[0])
    scores[0] = torch.inf  # [CLS] is protected
    kept = scores.topk(math.ceil(float(policy.share) * len(ends) * (1 - ROUNDING))).indices
    pruned = torch.ones(len(ends), dtype=torch.bool)
    pruned[kept] = False
    ends_of = policy.pruned_ends
    estimates = states[0] + states[0] @ ends_of.weight.T + ends_of.bias
    torch.testing.assert_close(ends[pruned], estimates[pruned], atol=1e-5, rtol=0)
    assert (ends - estimates)[~pruned].abs().amax(1).min() > 1e-3


def test_that_rule_is_taken_by_which_means_change_less(monkeypatch):
    changes, fit_ends = [], LinearShortcutPolicy._fit_ends

    def watched(policy, data):
        changes.append((fit_ends(policy, data), bool(policy.by_error)))
        return changes[-1][0]

    monkeypatch.setattr(LinearShortcutPolicy, "_fit_ends", watched)
    encoder, tokenizer = _encoder(), word_tokenizer()
    inputs, _, whole = _pairs(encoder, LONG)  # all of 32 tokens
    fewer.prune(encoder, tokenizer, LONG, method=METHOD)
    policy = _policy(encoder)
    assert [by_error for _, by_error in changes] == [False, True]
    assert (min(changes)[0], bool(policy.by_error)) == min(changes)
    policy.kept_ends.reset_parameters()
    with torch.no_grad():
        pruned = encoder(**inputs).last_hidden_state
    change = float((pruned.mean(1) - whole.mean(1)).square().sum())
    assert change == pytest.approx(min(changes)[0], rel=1e-4)
    fewer.prune(tiny(layers=3, width=16), tokenizer, LONG, method=METHOD)
    assert changes[2:] == [(changes[-1][0], False)]  # a head reads no mean


def test_expected_errors_are_a_regression_of_those_of_a_map_of_all_tokens():
    """Least squares twice, of pairs that transformers computes; short texts take no part."""
    encoder, tokenizer = _encoder(), word_tokenizer()
    inputs, states, last = _pairs(encoder, LONG)
    is_token = inputs["attention_mask"].bool()
    states, last = states[is_token], last[is_token]
    errors = (_with_bias(states) @ _solve(states, last) - last).norm(dim=1, keepdim=True)
    expected = (_with_bias(states) @ _solve(states, errors))[:, 0].float()
    fewer.prune(encoder, tokenizer, LONG + SHORT, method=replace(METHOD, ridge=1e-6))
    found = states @ _policy(encoder).error_weight
    assert torch.corrcoef(torch.stack((found, expected)))[0, 1] > 0.99


def test_the_map_is_the_ridge_regression_of_the_last_states():
    """Without a penalty: that of least squares, of pairs that transformers computes."""
    encoder, tokenizer = _encoder(), word_tokenizer()
    inputs, states, last = _pairs(encoder, LONG)
    fewer.prune(encoder, tokenizer, LONG, method=replace(METHOD, ridge=1e-9))
    with torch.no_grad(), fewer.record() as traces:
        encoder(**inputs)
    is_pruned = (traces[0].layers_read < 3) & ~traces[0].padding
    estimates = _with_bias(states[is_pruned]) @ _solve(states[is_pruned], last[is_pruned])
    errors = [
        (found - last[is_pruned]).square().sum()
        for found in (estimates.float(), _policy(encoder).pruned_ends(states[is_pruned]))
    ]
    assert errors[1] < 1.01 * errors[0]


def test_last_states_of_kept_tokens_are_mended_by_a_regression_to_unpruned_ones():
    """Nearer to them than without the map, on the texts that it was fitted to."""
    encoder, tokenizer = _encoder(), word_tokenizer()
    inputs, _, whole = _pairs(encoder, LONG)
    fewer.prune(encoder, tokenizer, LONG, method=replace(METHOD, ridge=1e-9))
    policy, found = _policy(encoder), []
    for scale in (1.0, 0.0, 0.99, 1.01):
        fitted = policy.kept_ends.weight.clone(), policy.kept_ends.bias.clone()
        policy.kept_ends.set_map(*(scale * tensor for tensor in fitted))
        with torch.no_grad(), fewer.record() as traces:
            last = encoder(**inputs).last_hidden_state
        policy.kept_ends.set_map(*fitted)
        is_kept = (traces[0].layers_read == 3) & ~traces[0].padding
        found.append(float((last - whole)[is_kept].square().sum()))
    assert found[0] < 0.9 * found[1]
    assert found[0] < min(found[2:])  # least squares


@pytest.mark.parametrize("by_error", [False, True])
def test_a_device_that_is_not_waited_for_gets_the_same_vectors(monkeypatch, by_error):
    encoder, tokenizer = _encoder(), word_tokenizer()
    fewer.prune(encoder, tokenizer, LONG, method=METHOD)
    _policy(encoder).by_error.fill_(by_error)
    vectors = []
    for looks in (True, False):
        monkeypatch.setattr(linear_shortcut, "can_look", lambda tensor, looks=looks: looks)
        vectors.append(fewer.embed(encoder, tokenizer, SHORT + LONG[:4], progress=False))
    torch.testing.assert_close(*vectors, atol=1e-6, rtol=0)


def test_it_is_what_prune_fits_to_encoders_without_a_head():
    encoder, tokenizer = _encoder(), word_tokenizer()
    with pytest.raises(ValueError, match="texts must have 64 tokens or more"):
        fewer.prune(encoder, tokenizer, LONG, target=0.8)
    assert fewer.attachment(encoder).method == LinearShortcut(target=0.8)
    with pytest.raises(ValueError, match="estimate their last states"):
        fewer.prune(_encoder(), tokenizer, LONG, method=TrainingFree())


@pytest.mark.filterwarnings("ignore:the linear shortcut keeps 0.61")
def test_it_is_fitted_to_what_an_earlier_method_leaves(monkeypatch):
    """TrainingFree also prunes in the layer after: the last layer reads some tokens only."""
    tokenizer, shares, rows, add = word_tokenizer(), [], [], StreamedRidge.add
    find = linear_shortcut._last_states

    def found(trace, slots):
        states, is_last = find(trace, slots)
        assert is_last.equal(torch.isin(slots, trace.layers[-1].slot))
        shares.append(float(is_last.float().mean()))
        return states.masked_fill(~is_last[:, None], torch.nan), is_last

    def added(ridge, inputs, goals, chosen):
        rows.append(goals[chosen])
        return add(ridge, inputs, goals, chosen)

    monkeypatch.setattr(linear_shortcut, "_last_states", found)
    monkeypatch.setattr(StreamedRidge, "add", added)
    first = TrainingFree(target=0.8, merge=False, only_first_last=False)
    method = Stack((first, replace(METHOD, target=0.6, layer=0)))
    model = tiny(layers=3, width=16, initializer_range=0.3)
    fewer.prune(model, tokenizer, LONG, method=method)
    policy = _policy(model)
    shortcut = next(part for part in policy.modules() if isinstance(part, LinearShortcutPolicy))
    assert min(shares) < 1
    assert all(bool(goals.isfinite().all()) for goals in rows)  # of no token that was not read
    assert all(bool(tensor.isfinite().all()) for tensor in shortcut.state_dict().values())
    with fewer.record() as traces:
        fewer.predict(model, tokenizer, LONG[:4], progress=False)
    assert 0.3 < float(fewer.attachment(model).spec.flops_ratio(traces[0])) < 0.7


def test_it_is_saved_with_the_model(tmp_path):
    encoder, tokenizer = _encoder(), word_tokenizer()
    fewer.prune(encoder, tokenizer, LONG, method=METHOD)
    fewer.save(encoder, tmp_path / "pruned")
    loaded = fewer.load(tmp_path / "pruned", precision=None)
    vectors = [
        fewer.embed(model, tokenizer, LONG[:4], progress=False) for model in (encoder, loaded)
    ]
    assert torch.equal(*vectors)


def test_objects_of_sentence_transformers_are_pruned_inside(model_folder):
    st = pytest.importorskip("sentence_transformers")
    embedder = st.SentenceTransformer(str(model_folder), device="cpu")  # pooled by the mean
    words = [[WORDS[(7 * row + place) % len(WORDS)] for place in range(30)] for row in range(40)]
    texts, method = [" ".join(row) for row in words], LinearShortcut(shortest=24)
    shown = [*texts[:4], "a film", "good"]
    before = embedder.encode(shown)
    fewer.prune(embedder, embedder.tokenizer, texts, method=method)
    after = embedder.encode(shown)
    assert (abs(after - before).max(1) > 1e-6).tolist() == [True] * 4 + [False] * 2
    plain = fewer.attach(
        AutoModel.from_pretrained(model_folder).eval(), LinearShortcut(shortest=24)
    )
    _policy(plain).load_state_dict(_policy(embedder).state_dict())
    vectors = fewer.embed(plain, embedder.tokenizer, shown, progress=False)
    torch.testing.assert_close(torch.from_numpy(after), vectors, atol=1e-5, rtol=0)


def test_a_smaller_share_prunes_more():
    encoder, tokenizer = _encoder(), word_tokenizer()
    fewer.prune(encoder, tokenizer, LONG, method=METHOD)
    spec, ratios = fewer.attachment(encoder).spec, []
    for share in (1.0, 0.5, 0.2):
        fewer.set_threshold(encoder, threshold=share)
        with fewer.record() as traces:
            fewer.embed(encoder, tokenizer, LONG[:4], progress=False)
        ratios.append(float(spec.flops_ratio(traces[0])))
    assert ratios[0] == 1.0 > ratios[1] > ratios[2]
    with pytest.raises(ValueError, match="threshold must be above 0"):
        fewer.set_threshold(encoder, threshold=0.0)


def test_what_makes_no_sense_is_refused():
    encoder, tokenizer = _encoder(), word_tokenizer()
    with pytest.raises(ValueError, match="layer must be below the number of layers, 3"):
        fewer.attach(encoder, LinearShortcut(layer=3))
    with pytest.raises(ValueError, match="texts must have 64 tokens or more"):
        fewer.prune(encoder, tokenizer, SHORT)
    with pytest.warns(UserWarning, match="read every token"):
        fewer.prune(encoder, tokenizer, LONG, method=LinearShortcut(target=0.1, shortest=2))


@pytest.mark.parametrize("texts", [LONG[:4], [LONG[0][:80]] * 60])
def test_few_texts_and_the_same_again_are_warned_of(texts):
    encoder = tiny(layers=3, width=64, initializer_range=0.3).base_model
    with pytest.warns(UserWarning, match=r"fitted to \d+ tokens.* of 64 directions"):
        fewer.prune(encoder, word_tokenizer(), texts, method=METHOD)


def test_pairs_in_place_of_texts_are_refused_and_a_method_has_a_name():
    encoder, tokenizer = _encoder(), word_tokenizer()
    with pytest.raises(TypeError, match="texts, row 0"):
        fewer.prune(encoder, tokenizer, [("a query", "a document")] * 4, method=METHOD)
    with pytest.raises(ValueError, match="texts must have 64 tokens or more"):
        fewer.prune(encoder, tokenizer, LONG, method="linear_shortcut")
