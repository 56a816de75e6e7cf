"""Law 3. Alone = together: neither batch mates nor padding change what is read or answered."""

import pytest
import torch

import fewer
from fewer import LTP
from tests.batches import training_batch
from tests.contract.table import (
    build,
    counts,
    every_backbone,
    law_of_families,
    law_of_methods,
    read,
    watched,
)
from tests.rounding import assert_same
from tests.tiny import LENGTHS, ragged, real, text, tiny


@law_of_methods(kernels=True)
def test_a_batch_equals_its_texts_one_by_one(method, backbone, kernel):
    model = build(method, backbone, kernel=kernel)
    batch = ragged(model)
    logits, trace = read(model, batch)
    for row, length in enumerate(LENGTHS):
        alone, alone_trace = read(model, text(batch, row))
        together = logits[row] if logits.ndim == 2 else logits[row, :length]
        assert_same(together, alone[0])
        assert torch.equal(trace.layers_read[row, :length], alone_trace.layers_read[0])
        assert torch.equal(counts(trace)[..., row], counts(alone_trace)[..., 0])


@law_of_families()
def test_the_order_of_the_texts_does_not_matter(method, backbone):
    model = build(method, backbone)
    batch, order = ragged(model), [3, 0, 4, 2, 1]
    logits, trace = read(model, batch)
    shuffled, shuffled_trace = read(model, {name: v[order] for name, v in batch.items()})
    assert_same(shuffled, logits[order])
    assert torch.equal(shuffled_trace.layers_read, trace.layers_read[order])


@law_of_families(kernels=True)
def test_more_padding_changes_nothing(method, backbone, kernel):
    model = build(method, backbone, "TokenClassification", kernel=kernel)
    tight, loose = ragged(model), ragged(model, columns=max(LENGTHS) + 9)
    logits, trace = read(model, tight)
    padded, padded_trace = read(model, loose)
    assert torch.equal(real(padded, loose), real(logits, tight))
    assert torch.equal(padded_trace.layers_read[:, : max(LENGTHS)], trace.layers_read)
    assert int(padded_trace.layers_read[:, max(LENGTHS) :].sum()) == 0
    assert torch.equal(counts(padded_trace), counts(trace))


@pytest.mark.parametrize("apply", ["soften", "soften_output", "mask", "compact"])
@every_backbone
@pytest.mark.parametrize("method", ["ltp", "ltp-reference"])
def test_padding_changes_neither_scores_nor_regulariser(method, backbone, apply):
    model = build(method, backbone)
    seen, losses = [], []
    for columns in (max(LENGTHS), max(LENGTHS) + 9):
        with watched(model) as views:
            _, trace = read(model, ragged(model, columns=columns), apply)
        seen.append([view.evidence.received for view, _ in views if view.layer])
        if apply != "compact":  # where the gone leave at once, no gate is worked out
            losses.append(fewer.attachment(model).policy.loss(training_batch(trace)))
    for tight, loose in zip(*seen, strict=True):
        assert torch.equal(tight, loose)
    assert apply == "compact" or losses[0] == losses[1] > 0


@every_backbone
def test_batch_mates_do_not_change_scores(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.2))
    batch = ragged(model)
    with watched(model) as together:
        read(model, batch)
    for row in range(len(LENGTHS)):
        with watched(model) as alone:
            read(model, text(batch, row))
        for (view, _), (own, _) in zip(together, alone, strict=True):
            if view.layer:
                mine = view.evidence.received[view.tokens.sequence == row]
                assert_same(mine, own.evidence.received)


@every_backbone
def test_the_share_of_flops_does_not_depend_on_padding(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.2, target=0.5))
    policy = fewer.attachment(model).policy
    with fewer.applying(model, "soften"), fewer.record() as traces:
        for columns in (max(LENGTHS), max(LENGTHS) + 9):
            model(**ragged(model, columns=columns))
    assert policy.loss(training_batch(traces[0])) == policy.loss(training_batch(traces[1])) > 0
