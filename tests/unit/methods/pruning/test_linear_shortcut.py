"""Pruned tokens that end at a linear map of their state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModel

import fewer
from fewer.methods.pruning import LinearShortcut, TrainingFree
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


def test_the_tokens_farthest_from_the_mean_stay_and_the_others_end_at_the_map():
    encoder, tokenizer = _encoder(), word_tokenizer()
    inputs = tokenizer(LONG[0], return_tensors="pt")
    states = []
    watched = encoder.encoder.layer[1].attention.register_forward_hook(
        lambda module, args, output: states.append(output[0][0])
    )
    with torch.no_grad():
        encoder(**inputs)
    watched.remove()
    fewer.prune(encoder, tokenizer, LONG, method=METHOD)
    policy = _policy(encoder)
    with torch.no_grad():
        ends = encoder(**inputs).last_hidden_state[0]
    units = torch.nn.functional.normalize(states[0], dim=1)
    scores = 1 - units @ torch.nn.functional.normalize(units.sum(0), dim=0)
    scores[0] = 2.0  # [CLS] is protected
    kept = scores.topk(-int(-float(policy.share) * len(ends) // 1)).indices
    pruned = torch.ones(len(ends), dtype=torch.bool)
    pruned[kept] = False
    estimates = states[0] @ policy.weight.T + policy.bias
    torch.testing.assert_close(ends[pruned], estimates[pruned], atol=1e-5, rtol=0)
    assert (ends - estimates)[~pruned].abs().amax(1).min() > 1e-3


def test_the_map_is_the_ridge_regression_of_the_last_states():
    """Without a penalty: that of least squares, of pairs that transformers computes."""
    encoder, tokenizer = _encoder(), word_tokenizer()
    inputs = tokenizer(LONG, return_tensors="pt", padding=True)
    states = []
    watched = encoder.encoder.layer[1].attention.register_forward_hook(
        lambda module, args, output: states.append(output[0])
    )
    with torch.no_grad():
        last = encoder(**inputs).last_hidden_state
    watched.remove()
    fewer.prune(encoder, tokenizer, LONG, method=replace(METHOD, ridge=1e-9))
    with torch.no_grad(), fewer.record() as traces:
        encoder(**inputs)
    is_pruned = (traces[0].layers_read < 3) & ~traces[0].padding
    features = torch.nn.functional.pad(states[0][is_pruned], (0, 1), value=1.0).double()
    solution = torch.linalg.lstsq(features, last[is_pruned].double()).solution.float()
    errors = [
        (found - last[is_pruned]).square().sum()
        for found in (features.float() @ solution, _policy(encoder)._map(states[0][is_pruned]))
    ]
    assert errors[1] < 1.01 * errors[0]


def test_it_is_what_prune_fits_to_encoders_without_a_head():
    encoder, tokenizer = _encoder(), word_tokenizer()
    with pytest.raises(ValueError, match="texts must have 64 tokens or more"):
        fewer.prune(encoder, tokenizer, LONG, target=0.8)
    assert fewer.attachment(encoder).method == LinearShortcut(target=0.8)
    with pytest.raises(ValueError, match="estimate their last states"):
        fewer.prune(_encoder(), tokenizer, LONG, method=TrainingFree())


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
