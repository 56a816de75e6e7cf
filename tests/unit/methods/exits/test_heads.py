import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fewer import Decision
from fewer.core.apply import APPLIES
from fewer.core.decision import ExitOutput
from fewer.methods.exits.heads import HEADS, first_rows
from tests.unit.methods.exits.parts import LENGTHS, packed, spec

WIDE = 24  # the attentive head is then 8 wide, two heads of 4
every_head = pytest.mark.parametrize("name", HEADS)


def _heads(name, exits=3, wide=WIDE):
    torch.manual_seed(3)
    return HEADS[name](spec(width=wide), exits)


def _tokens(seed=0):
    return packed(width=WIDE, seed=seed)


def _compute(heads, tokens, exits):
    """Compute exits in turn, as the policy does, and return their outputs."""
    outputs = []
    for number in range(exits):
        features = heads.features(tokens, number)
        logits = heads.classify(features, number, outputs)
        outputs.append(ExitOutput(number, tokens.texts, logits, features))
    return outputs


def _exit(tokens, texts):
    """Let texts exit, but keep their tokens in memory."""
    exits = torch.zeros(tokens.grid[0], dtype=torch.bool)
    exits[texts] = True
    return APPLIES["mask"].carry_out(tokens, Decision(exits=exits).with_guarantees(tokens))


def _as_attention(heads, number):
    """Draw an ordinary attention of two heads, and give the exit the same function."""
    width = heads.width
    q, k, v, mix = (torch.nn.Linear(width, width) for _ in range(4))
    ask, mixed = heads.ask[number], heads.mix[number]
    with torch.no_grad():
        mixed.bias.copy_(mix.bias + mix.weight @ v.bias)
        for head in range(2):
            part = slice(head * width // 2, (head + 1) * width // 2)
            rows = slice(head * width, (head + 1) * width)
            scale = (width / 2) ** -0.5
            ask.weight[rows] = scale * k.weight[part].T @ q.weight[part]
            ask.bias[rows] = scale * k.weight[part].T @ q.bias[part]
            mixed.weight[:, rows] = mix.weight[:, part] @ v.weight[part]
    return q, k, v, mix


def _naive_attention(heads, number, states, maps):
    """Compute torch's attention of two heads, every token a query, and return the first row."""
    narrow = torch.tanh(heads.narrow[number](states))  # (n, W)
    *projections, mix = maps
    q, k, v = (project(narrow).unflatten(-1, (2, -1)).transpose(0, 1) for project in projections)
    context = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    first = context.transpose(0, 1).flatten(1)[0]
    return torch.tanh(mix(first))


@pytest.mark.parametrize("number", [0, 2])
def test_the_attentive_head_is_a_plain_attention_whose_first_row_is_used(number):
    heads, tokens = _heads("attentive"), _tokens()
    maps = _as_attention(heads, number)
    texts = tokens.hidden.split(list(LENGTHS))
    expected = torch.stack([_naive_attention(heads, number, text, maps) for text in texts])
    torch.testing.assert_close(heads.features(tokens, number), expected, atol=1e-6, rtol=0)


def test_the_attentive_head_ignores_pruned_tokens():
    heads, tokens = _heads("attentive"), _tokens()
    keep = torch.tensor([1, 0, 1, 1, 1, 1, 1, 0]).bool()
    decision = Decision.keep(keep)
    expected = heads.features(tokens.select(keep.nonzero().squeeze(1)), 0)
    for apply in ("mask", "compact"):
        pruned = APPLIES[apply].carry_out(tokens, decision)
        torch.testing.assert_close(heads.features(pruned, 0), expected, atol=1e-6, rtol=0)


def test_a_gate_of_a_half_halves_the_weight_of_a_token():
    """The same as with log(1/2) added to its score."""
    heads = _heads("attentive")
    tokens = packed((2,), width=WIDE)
    with torch.no_grad():
        heads.ask[0].weight.zero_()
        heads.ask[0].bias.zero_()  # all scores 0: weights 1 to 1/2
    gated = tokens.replace(gate=torch.tensor([1.0, 0.5]))
    narrow = torch.tanh(heads.narrow[0](tokens.hidden))
    mean = (narrow * torch.tensor([[2 / 3], [1 / 3]])).sum(0)
    expected = torch.tanh(heads.mix[0](mean.repeat(2)))
    torch.testing.assert_close(heads.features(gated, 0)[0], expected, atol=1e-6, rtol=0)


@every_head
def test_texts_that_exited_get_no_features_and_cost_nothing(name):
    heads, tokens = _heads(name), _tokens()
    remaining = _exit(tokens, [0])
    assert remaining.texts.tolist() == [1, 2]
    features = heads.features(tokens, 0)
    torch.testing.assert_close(heads.features(remaining, 0), features[1:], atol=1e-6, rtol=0)
    assert heads.flops(remaining).tolist() == [0.0, *heads.flops(tokens)[1:].tolist()]


@every_head
def test_a_text_alone_gets_the_same_logits(name):
    heads, tokens = _heads(name), _tokens()
    batched = [output.logits for output in _compute(heads, tokens, 3)]
    for text in range(len(LENGTHS)):
        rows = (tokens.sequence == text).nonzero().squeeze(1)
        single = [output.logits for output in _compute(heads, tokens.select(rows), 3)]
        for logits, expected in zip(batched, single, strict=True):
            torch.testing.assert_close(logits[text : text + 1], expected, atol=1e-6, rtol=0)


def test_pooled_heads_have_one_pooler_each_and_shared_heads_the_same():
    tokens = _tokens()
    pooled, shared = _heads("pooled"), _heads("shared")
    assert (len(pooled.poolers), len(shared.poolers)) == (3, 1)
    first = tokens.hidden[first_rows(tokens)]
    for number in range(3):
        expected = torch.tanh(pooled.poolers[number](first))
        assert torch.equal(pooled.features(tokens, number), expected)
        assert torch.equal(shared.features(tokens, number), torch.tanh(shared.poolers[0](first)))


def test_a_linear_head_is_one_map_of_the_first_token():
    heads, tokens = _heads("linear"), _tokens()
    features = heads.features(tokens, 1)
    assert torch.equal(features, tokens.hidden[[0, 4, 5]])
    expected = heads.classifiers[1](features)
    assert torch.equal(heads.classify(features, 1, []), expected)


def test_the_mixed_head_mixes_with_a_vector_of_norm_1():
    """With two orthonormal feature vectors the mixture's norm is that of the weights."""
    heads = _heads("mixed", exits=2)
    with torch.no_grad():
        heads.mixing[1].copy_(torch.tensor([3.0, -4.0]))
        heads.classifiers[1].weight.copy_(torch.eye(3, WIDE))
        heads.classifiers[1].bias.zero_()
    first, second = torch.eye(WIDE)[:2]
    previous = [ExitOutput(0, torch.tensor([0]), torch.zeros(1, 3), first[None])]
    mixed = heads.classify(second[None], 1, previous)
    assert mixed.tolist()[0] == pytest.approx([0.6, -0.8, 0.0])
    assert mixed.norm().item() == pytest.approx(1.0)


def test_the_first_mixture_is_of_one_vector_and_can_only_choose_a_sign():
    heads, features = _heads("mixed"), torch.randn(2, WIDE)
    sign = heads.mixing[0].sign()
    expected = heads.classifiers[0](sign * features)
    torch.testing.assert_close(heads.classify(features, 0, []), expected)


def test_the_mixing_weights_move_in_training():
    """In the released code of Right Tool they stay as they were drawn."""
    heads, tokens = _heads("mixed"), _tokens()
    initial = [weight.detach().clone() for weight in heads.mixing]
    optimizer = torch.optim.Adam(heads.parameters(), 1e-2)
    losses = []
    for _ in range(50):
        loss = sum(
            torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2]))
            for output in _compute(heads, tokens, 3)
        )
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    changes = [
        weight / weight.norm() - old / old.norm()
        for weight, old in zip(heads.mixing, initial, strict=True)
    ]
    assert changes[0].abs().max() < 1e-6  # of one number, only the sign counts
    assert changes[1].abs().max() > 1e-2
    assert changes[2].abs().max() > 1e-2
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("number", [0, 2])
@every_head
def test_flops_are_those_of_the_matrix_products(name, number):
    heads, tokens = _heads(name), _tokens()
    previous = _compute(heads, tokens, number)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        heads.classify(heads.features(tokens, number), number, previous)
    assert heads.flops(tokens).sum().item() == counter.get_total_flops()


@every_head
def test_each_additional_multiply_add_counts_two_flops(name):
    heads, tokens = _heads(name), _tokens()
    more = heads.flops(tokens, 5) - heads.flops(tokens)
    assert more.tolist() == [10.0, 10.0, 10.0]


def test_the_attentive_head_is_128_wide_on_a_model_of_768():
    heads = HEADS["attentive"](spec(width=768), 1)
    assert heads.width == 128
    assert HEADS["attentive"](spec(width=32), 1).width == 10  # even: two heads


@every_head
def test_gradients_reach_every_parameter_of_a_computed_exit(name):
    heads, tokens = _heads(name, exits=2), _tokens()
    first, second = _compute(heads, tokens, 2)
    (first.logits.square().sum() + second.logits.square().sum()).backward()
    for path, parameter in heads.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all()


@every_head
def test_each_text_of_one_token_has_the_flops_of_one_text_and_token(name):
    heads, tokens = _heads(name), packed((1, 1, 1), width=WIDE)
    assert heads.flops(tokens).tolist() == [heads.per_text + heads.per_token] * 3


def test_of_two_texts_the_second_is_computed_alone_after_the_first_exited():
    heads, tokens = _heads("attentive"), packed((3, 2), width=WIDE)
    both = heads.features(tokens, 0)
    remaining = heads.features(_exit(tokens, [0]), 0)
    torch.testing.assert_close(remaining, both[1:], atol=1e-6, rtol=0)


def test_attention_scores_that_would_overflow_are_shifted_first():
    """exp(s - max s): scores of hundreds give all weight to the largest."""
    heads, tokens = _heads("attentive"), _tokens()
    with torch.no_grad():
        for parameter in heads.ask.parameters():
            parameter.mul_(1e4)
        states = torch.tanh(heads.narrow[0](tokens.hidden[4:5]))  # of the text of one token
        expected = torch.tanh(heads.mix[0](torch.cat((states, states), 1)))
        features = heads.features(tokens, 0)
    assert features.isfinite().all()
    torch.testing.assert_close(features[1:2], expected)
