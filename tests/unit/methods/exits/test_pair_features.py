"""Features of a pair, by hand, in any batch, with tokens that have left, and of texts alone."""

import torch
from torch.nn.functional import cosine_similarity

from fewer.core.packed import Packed, plan
from fewer.methods.exits.pair_features import pair_features, pair_flops, pair_width

WIDTH = 6
PAIRS = [(2, 3), (1, 1), (4, 0), (3, 5)]  # tokens of query and document; 0: a text alone


def pack(pairs=PAIRS, seed=0):
    """[CLS] q [SEP] d [SEP] each, without the document and its separator where there is none."""
    rows = [[0] * (2 + first) + [1] * (second + bool(second)) for first, second in pairs]
    columns = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (columns - len(row)) for row in rows])
    second = torch.tensor([row + [0] * (columns - len(row)) for row in rows], dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(*mask.shape, WIDTH, generator=generator)
    layout = plan(mask, tuple(mask.shape), mask.device)
    column = layout.column
    return states, Packed.start(
        layout, layout.take(states), column, column == 0, second_text=layout.take(second)
    )


def expected(states, first, second):
    """Of one text, from its row of states."""
    query, document = states[1 : 1 + first], states[2 + first : 2 + first + second]
    q, d = query.mean(0), document.mean(0)
    late = torch.stack(
        [max(cosine_similarity(one, other, dim=0) for other in document) for one in query]
    ).mean()
    alike = torch.stack((cosine_similarity(q, d, dim=0), late))
    return torch.cat((states[0], states[: 3 + first + second].mean(0), q * d, alike))


def test_they_are_those_of_the_formulas():
    states, tokens = pack()
    features = pair_features(tokens)
    assert features.shape == (len(PAIRS), pair_width(WIDTH))
    for row, (first, second) in enumerate(PAIRS):
        if second:
            torch.testing.assert_close(features[row], expected(states[row], first, second))
    assert pair_flops(tokens).tolist() == [2 * WIDTH * a * b for a, b in PAIRS]


def test_a_text_alone_is_like_nothing():
    _, tokens = pack([(4, 0)])
    features = pair_features(tokens)[0]
    assert features[2 * WIDTH : 3 * WIDTH].tolist() == [0.0] * WIDTH
    assert features[-2:].tolist() == [0.0, -1.0]
    assert torch.isfinite(features).all()


def test_a_pair_has_the_same_features_in_any_batch():
    states, tokens = pack()
    together = pair_features(tokens)
    for row, pair in enumerate(PAIRS):
        _, alone = pack([pair])
        size = len(alone.slot)
        alone = alone.replace(hidden=states[row, :size])
        torch.testing.assert_close(pair_features(alone)[0], together[row])


def test_pairs_that_have_left_have_no_row():
    _, tokens = pack()
    stays = (tokens.sequence != 1).nonzero().squeeze(1)
    torch.testing.assert_close(
        pair_features(tokens.select(stays)), pair_features(tokens)[[0, 2, 3]]
    )
    assert len(pair_flops(tokens.select(stays))) == len(PAIRS) - 1
