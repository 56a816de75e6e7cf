import struct

import numpy as np
import pytest
import torch

from benchmarks import e5

ROLES = {"bos": 0, "pad": 1, "eos": 2, "unk": 3}
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "中", "国", "▁the", "▁cat", "s", "é", "<mask>"]
SCORES = [0.0] * 4 + [-4.0, -5.0, -6.0, -5.0, -7.0, -6.0, -8.0, 0.0]
WIDTH = 8


def header(**changes):
    fixed = {"num_layers": 0, "num_heads": 1, "max_len": 4, "num_types": 2, "epsilon": 0.5}
    sizes = {"hidden_size": WIDTH, "inner_size": 16, "block": 32, "piece_bytes": 0}
    counts = {"num_rows": len(PIECES), "num_pieces": len(PIECES)}
    return e5.Header(**(fixed | sizes | counts | ROLES | changes))


def model():
    rows = torch.arange(len(PIECES) * WIDTH, dtype=torch.float32).view(-1, WIDTH)
    return e5.Packaged(header(), PIECES, SCORES, {e5.EMBEDDINGS["emb.word"]: rows})


def block(scale, codes):
    low, high = codes[:16], codes[16:]
    return struct.pack("<e", scale) + bytes(a | b << 4 for a, b in zip(low, high, strict=True))


def written():
    """Write a file of no layers: words in 4 bits, all else in fp32."""
    texts = [piece.encode() for piece in PIECES]
    bounds = np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    told = header(piece_bytes=sum(map(len, texts)))
    opening = struct.pack("<" + e5.Header.FORMAT, b"E5S1", 1, *vars(told).values())
    opening += bounds + np.array(SCORES, "<f4").tobytes() + b"".join(texts)
    opening += struct.pack("<iI", 0, 3) + b"xyz"
    stored = {
        "emb.word": (1, 96, block(1.0, [8] * 32) * 2 + block(0.5, [15] * 32)),
        "emb.pos": (0, 32, np.arange(32, dtype="<f4").tobytes()),
        "emb.type": (0, 16, np.ones(16, "<f4").tobytes()),
        "emb.ln.w": (0, 8, np.ones(8, "<f4").tobytes()),
        "emb.ln.b": (0, 8, np.zeros(8, "<f4").tobytes()),
    }
    offset = len(opening) + 4 + sum(2 + len(name) + 21 for name in stored)
    table, body = struct.pack("<i", len(stored)), b""
    for name, (kind, count, raw) in stored.items():
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BIQQ", kind, count, offset + len(body), len(raw))
        body += raw
    return opening + table + body


def test_a_block_holds_its_first_half_in_the_low_bits():
    codes = [*range(16), *reversed(range(16))]
    expected = [(code - 8) * 0.25 for code in codes]
    np.testing.assert_array_equal(e5.unpack(block(0.25, codes)), np.float32(expected))


def test_each_block_has_its_own_scale():
    found = e5.unpack(block(2.0, [9] * 32) + block(-1.0, [0] * 32))
    assert found.tolist() == [2.0] * 32 + [8.0] * 32


def test_part_of_a_block_is_refused():
    with pytest.raises(ValueError, match="19 bytes are no whole number of 18-byte blocks"):
        e5.unpack(bytes(19))


def test_a_file_is_read_whole():
    found = e5.read(written())
    assert found.pieces == PIECES
    assert found.scores == SCORES
    assert found.header.epsilon == 0.5
    words = found.tensors["embeddings.word_embeddings.weight"]
    assert words.shape == (12, WIDTH)
    assert words[7].tolist() == [0.0] * 8
    assert words[8].tolist() == [3.5] * 8
    assert found.tensors["embeddings.position_embeddings.weight"][1, 0] == 8
    assert e5.bert(found).embeddings.word_embeddings.padding_idx == 1


def test_what_is_wrong_with_a_file_is_said():
    raw = written()
    with pytest.raises(ValueError, match="opens with b'GGUF', version 1; only b'E5S1'"):
        e5.read(b"GGUF" + raw[4:])
    with pytest.raises(ValueError, match=f"ends at byte {len(raw) - 1}, but 32 bytes from"):
        e5.read(raw[:-1])
    with pytest.raises(ValueError, match=r"no tensor 'emb\.pos' \(it becomes embeddings\.pos"):
        e5.read(raw.replace(b"emb.pos", b"emb.sop"))


def test_a_layer_has_sixteen_tensors():
    names = e5.tensor_names(2)
    assert len(names) == 5 + 2 * 16
    assert names["l1.fo.w"] == "encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize(
    "piece", ["中国", "▁t", "7", "▁", "。", "\u201c", "\uff5e", "·", "A股", "㐀", "𠀀"]
)
def test_chinese_pieces_and_single_letters_stay(piece):
    assert e5.is_chinese(piece)


@pytest.mark.parametrize("piece", ["é", "▁caf\u00e9", "中é", "\u0434", "ひ", "한", "▁the", "ing"])
def test_other_scripts_and_latin_words_go(piece):
    assert not e5.is_chinese(piece)


def test_kept_pieces_take_their_rows_and_roles_along():
    kept = [11, 3, 2, 1, 0, 6]
    found = e5.restrict(model(), kept)
    assert found.pieces == ["<mask>", "<unk>", "</s>", "<pad>", "<s>", "国"]
    assert [found.pieces[getattr(found.header, role)] for role in ROLES] == PIECES[:4]
    rows = found.tensors["embeddings.word_embeddings.weight"]
    assert rows[:, 0].tolist() == [WIDTH * piece for piece in kept]
    assert found.header.num_rows == found.header.num_pieces == 6


def test_a_special_piece_cannot_go():
    with pytest.raises(ValueError, match="the pad piece '<pad>' has to be kept"):
        e5.restrict(model(), [0, 2, 3, 4])


def test_a_chinese_character_is_one_piece():
    found = e5.tokenizer(model(), "never")(["中", "国", "\u200b", "龘"], is_split_into_words=True)
    assert found["input_ids"] == [0, 5, 6, 4, 3, 2]
    assert found.word_ids() == [None, 0, 1, 2, 3, None]
    assert sorted(found) == ["attention_mask", "input_ids"]


def test_split_words_read_as_running_text():
    tokenizer = e5.tokenizer(model())
    found = tokenizer(["the", "cats"], is_split_into_words=True)
    assert found["input_ids"] == tokenizer("the  cats")["input_ids"] == [0, 7, 8, 9, 2]
    assert found.word_ids() == [None, 0, 1, 1, None]


def test_a_pair_is_parted_by_two_marks():
    assert e5.tokenizer(model())("the", "cat")["input_ids"] == [0, 7, 2, 2, 8, 2]


def test_only_the_wide_tilde_keeps_its_width():
    normalizer = e5.tokenizer(model()).backend_tokenizer.normalizer
    assert normalizer.normalize_str("\uff21\uff5e\uff01\x01\t  \u2026") == "A\uff5e! ..."
