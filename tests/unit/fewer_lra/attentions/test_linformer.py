from __future__ import annotations

import torch

from tests.unit.fewer_lra.attentions.cases import LENGTHS, LONGEST, WIDTH, batch, plain, small


def test_with_the_identity_for_a_projection_it_is_softmax_attention() -> None:
    attention = small("linformer", rank=LONGEST)
    attention.mixing.data = torch.eye(LONGEST)
    given = batch([LONGEST, LONGEST])
    torch.testing.assert_close(attention(*given), plain(given))


def test_it_is_the_formula_text_by_text() -> None:
    attention, given = small("linformer"), batch()
    got = attention(*given)
    for text, n in enumerate(LENGTHS):
        mixing = attention.mixing[:n].T
        q, k, v = (side[text, :, :n] for side in given[:3])
        wanted = (q @ (mixing @ k).transpose(1, 2) / WIDTH**0.5).softmax(-1) @ (mixing @ v)
        torch.testing.assert_close(got[text, :, :n], wanted)
