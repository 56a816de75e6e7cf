"""The arena's model: what it reads, pools and answers, with every attention."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewer_lra.attentions import ATTENTIONS
from fewer_lra.model import LRAModel, LRAModelSpec
from tests.unit.fewer_lra.attentions.cases import SMALL

LENGTHS = torch.tensor([12, 1, 7, 2])


def spec(**changes: Any) -> LRAModelSpec:
    sizes: dict[str, Any] = {"vocabulary": 11, "classes": 3, "max_length": 12, "layers": 2}
    widths: dict[str, Any] = {"heads": 2, "hidden": 12, "qkv": 8, "ffn": 10}
    return LRAModelSpec(**{**sizes, **widths, **changes})


def model(attention: str = "softmax", **changes: Any) -> LRAModel:
    options = SMALL.get(attention, {})
    return LRAModel(spec(**changes), attention, options).eval()


def ids(lengths: Tensor = LENGTHS, columns: int = 12) -> Tensor:
    """Draw ids from 1 on; 0 is padding."""
    real = torch.arange(columns) < lengths[:, None]
    return torch.randint(1, 11, real.shape) * real


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_text_is_answered_alike_alone_and_behind_any_padding(
    attention: str, pooling: str
) -> None:
    reader, tokens = model(attention, pooling=pooling), ids()
    wanted = reader(tokens, LENGTHS)["logits"]
    other = torch.where(torch.arange(12) < LENGTHS[:, None], tokens, 5)
    torch.testing.assert_close(reader(other, LENGTHS)["logits"], wanted)
    for text, length in enumerate(LENGTHS.tolist()):
        alone = reader(tokens[[text], :length], LENGTHS[[text]])["logits"]
        torch.testing.assert_close(alone, wanted[[text]])


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_loss_reaches_every_parameter(attention: str, positions: str) -> None:
    # Longformer's [CLS] reads by global projections: in the last layer nobody asks the others
    pooling = "mean" if attention == "longformer" else "cls"
    reader = model(attention, positions=positions, pooling=pooling).train()
    labels = torch.tensor([0, 2, 1, 2])
    answer = reader(ids(), LENGTHS, labels)
    assert answer["logits"].shape == (4, 3)
    torch.testing.assert_close(answer["loss"], F.cross_entropy(answer["logits"], labels))
    answer["loss"].backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_zero_within_the_length_is_no_padding() -> None:
    reader = model(pooling="mean")
    black = torch.zeros(1, 8, dtype=torch.long)
    eight, four = (reader(black, torch.tensor([n]))["logits"] for n in (8, 4))
    assert (eight - four).abs().max() > 1e-4
    torch.testing.assert_close(reader(black[:, :4], torch.tensor([4]))["logits"], four)


def test_the_mean_is_over_real_tokens() -> None:
    reader, tokens = model(pooling="mean"), ids()
    hidden, _ = reader._encode(tokens, LENGTHS)
    pooled = torch.stack([hidden[text, :n].mean(0) for text, n in enumerate(LENGTHS)])
    torch.testing.assert_close(reader(tokens, LENGTHS)["logits"], reader.head(pooled))


def test_an_empty_text_is_read_as_one_token_of_padding() -> None:
    reader, tokens = model(pooling="mean"), torch.zeros(2, 5, dtype=torch.long)
    empty, one = reader(tokens, torch.tensor([0, 1]))["logits"]
    assert torch.equal(empty, one)
    assert torch.isfinite(empty).all()


def test_one_layer_is_the_formula_of_the_paper() -> None:
    reader, tokens = model(layers=1), ids(torch.tensor([12]))
    (layer,) = reader.layers
    x = (
        torch.cat((torch.zeros(1, 12), reader.embedding.weight[tokens[0]]))
        + reader.position_embeddings
    )
    read = F.layer_norm(x, (12,), eps=1e-6)
    q, k, v = (
        (read @ layer.projections[name].weight.T).view(13, 2, 4).transpose(0, 1) for name in "qkv"
    )
    context = (q @ k.transpose(1, 2) / 2).softmax(-1) @ v
    x = x + context.transpose(0, 1).reshape(13, 8) @ layer.output.weight.T
    first, last = layer.ffn[0], layer.ffn[-1]
    x = x + last(F.gelu(first(F.layer_norm(x, (12,), eps=1e-6))))
    pooled = F.layer_norm(x, (12,), eps=1e-6)[0]
    wanted = reader.head[-1](reader.head[0](pooled).relu())
    torch.testing.assert_close(reader(tokens, torch.tensor([12]))["logits"][0], wanted)


def test_it_begins_as_the_arena_says() -> None:
    reader = LRAModel(spec(vocabulary=500, hidden=64, positions="learned"), "softmax", {})
    assert reader.embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    assert reader.position_embeddings.std().item() == pytest.approx(0.02, rel=0.1)
    assert reader.cls.abs().max() == 0
    layer = reader.layers[0]
    for name in "qkv":
        bound = math.sqrt(6 / (64 + 8))  # Xavier
        weight = layer.projections[name].weight
        assert 0.95 * bound < weight.abs().max().item() <= bound
        assert layer.projections[name].bias is None
    assert layer.output.bias is None
    assert layer.ffn[0].bias.abs().max() == 0


def test_sinusoids_turn_once_in_two_pi_to_twenty_thousand_pi() -> None:
    embeddings = model(hidden=6, max_length=40).position_embeddings
    columns = torch.arange(41.0)
    rates = [1.0, 0.01, 0.0001]
    wanted = torch.stack(
        [*((columns * r).sin() for r in rates), *((columns * r).cos() for r in rates)], 1
    )
    torch.testing.assert_close(embeddings, wanted)
    assert "position_embeddings" not in model().state_dict()


@pytest.mark.parametrize(("interaction", "parts"), [("none", 2), ("nli", 4)])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pairs_are_read_apart_and_answered_together(
    pooling: str, interaction: str, parts: int
) -> None:
    reader = model(pair=True, pooling=pooling, interaction=interaction)
    tokens, second_lengths = ids(), torch.tensor([3, 5, 1, 4])
    second = ids(second_lengths, columns=5)
    x, y = reader._pool(tokens, LENGTHS), reader._pool(second, second_lengths)
    wanted = reader.head(torch.cat((x, y, x * y, x - y)[:parts], -1))
    got = reader(tokens, LENGTHS, second_ids=second, second_lengths=second_lengths)["logits"]
    torch.testing.assert_close(got, wanted)
    assert [linear.out_features for linear in reader.head[::2]] == [10, 5, 3]
    assert reader.head[0].in_features == parts * 12


def test_hidden_tokens_are_guessed_where_labels_say() -> None:
    reader, tokens = model(), ids()
    labels = torch.full_like(tokens, -100)
    labels[0, 3], labels[0, 11], labels[2, 0] = 4, 9, 1
    answer = reader.forward_masked(tokens, LENGTHS, labels)
    hidden, _ = reader._encode(tokens, LENGTHS)
    asked = torch.stack([hidden[0, 4], hidden[0, 12], hidden[2, 1]])  # behind [CLS]
    logits = asked @ reader.embedding.weight.T / math.sqrt(12)
    torch.testing.assert_close(answer["logits"], logits)
    wanted = F.cross_entropy(logits, torch.tensor([4, 9, 1]))
    torch.testing.assert_close(answer["loss"], wanted)
    nothing = reader.forward_masked(tokens, LENGTHS, torch.full_like(tokens, -100))
    assert nothing["loss"].item() == 0


@pytest.mark.parametrize("attention", ["softmax", "longformer", "reformer"])
def test_it_learns_to_guess_hidden_tokens(attention: str) -> None:
    reader = model(attention, pooling="mean", dropout=0.0, attention_dropout=0.0).train()
    optimizer = torch.optim.Adam(reader.parameters(), 1e-2)
    tokens, lengths = ids(torch.full((8,), 12)), torch.full((8,), 12)
    hidden = tokens.clone()
    hidden[:, 5] = 0
    labels = torch.full_like(tokens, -100)
    labels[:, 5] = tokens[:, 5]
    for _ in range(60):
        loss = reader.forward_masked(hidden, lengths, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3  # from 2.4, the log of 11 ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "qkv must be a multiple of heads"),
        ({"layers": 0}, "layers"),
        ({"classes": 0}, "classes"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention_dropout": -0.1}, "attention_dropout"),
        ({"pooling": "max"}, "pooling"),
        ({"positions": "rotary"}, "positions"),
        ({"interaction": "NLI"}, "interaction"),
        ({"hidden": 7}, "hidden"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**changes)


def test_an_unknown_attention_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"attention must be one of softmax, .*'flash'"):
        LRAModel(spec(), "flash", {})


def test_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_length .12. tokens; got 13"):
        model()(ids(torch.tensor([13]), 13), torch.tensor([13]))


def test_second_texts_belong_to_models_of_pairs() -> None:
    with pytest.raises(ValueError, match="got pair=True"):
        model(pair=True)(ids(), LENGTHS)
    with pytest.raises(ValueError, match="got pair=False"):
        model()(ids(), LENGTHS, second_ids=ids(), second_lengths=LENGTHS)
    with pytest.raises(ValueError, match="got pair=False"):
        model()(ids(), LENGTHS, second_ids=ids())


def test_the_trainer_of_hugging_face_trains_and_asks_it(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    tokens, reader = ids(), model()
    rows = [
        {"input_ids": text, "lengths": n, "labels": torch.tensor(label)}
        for text, n, label in zip(tokens, LENGTHS, [0, 2, 1, 2], strict=True)
    ]
    settings = TrainingArguments(
        str(tmp_path), max_steps=120, learning_rate=1e-2, report_to=[], use_cpu=True, save_steps=120
    )
    trainer = Trainer(reader, settings, train_dataset=rows)
    trainer.train()
    answer = trainer.predict(rows)
    assert answer.predictions.argmax(-1).tolist() == [0, 2, 1, 2]
    assert answer.metrics["test_loss"] < 0.5  # from 1.1, the log of 3 classes
