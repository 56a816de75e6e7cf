from __future__ import annotations

import torch

from tests.unit.fewer_lra.attentions.cases import batch, plain, small


def test_it_is_the_formula_over_real_tokens() -> None:
    given = batch()
    got = small("softmax")(*given)
    torch.testing.assert_close(got[given.real], plain(given)[given.real])


def test_two_tokens_by_hand() -> None:
    # scores 2 ln 3 / sqrt(4) = ln 3 and 0: the first value counts three times the second
    given = batch([2])
    for side in given[:3]:
        side.zero_()
    given.q[:, :, 0, 0], given.k[:, :, 0, 0] = 2.0, torch.tensor(3.0).log()
    given.v[:, :, 0, 0], given.v[:, :, 1, 1] = 4.0, 8.0
    wanted = torch.tensor([3.0, 2.0, 0.0, 0.0]).expand(1, 2, 4)
    torch.testing.assert_close(small("softmax")(*given)[:, :, 0], wanted)
