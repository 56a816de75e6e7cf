"""What a head computes on padding is nobody's answer: each text is answered as it is alone."""

import pytest
import torch

import fewer
from fewer import LTP
from fewer.kernels.call import masked_score
from fewer.methods.exits import EarlyExit
from tests.contract.table import every_backbone
from tests.tiny import logits, ragged, text, tiny


def _unsure(backbone="bert"):
    """Answer questions by a head whose bias, which padding would get, is above every logit."""
    model = tiny(backbone, "QuestionAnswering")
    ends = ("qa_outputs", "classifier")
    head = next(part for name, part in model.named_modules() if name.split(".")[-1] in ends)
    with torch.no_grad():
        head.bias += 50
        head.weight *= 0.1
    return model


def _places(batch):
    """Choose a start and an end inside each text."""
    last = batch["attention_mask"].ne(0).sum(1) - 1
    return {"start_positions": last // 2, "end_positions": last}


@every_backbone
def test_a_padded_batch_of_questions_is_answered_as_each_text_alone(backbone):
    model = _unsure(backbone)
    batch = ragged(model)
    places = _places(batch)
    alone, losses = [], []
    with torch.no_grad():
        for row in range(5):
            places_of_row = {name: values[row : row + 1] for name, values in places.items()}
            output = model(**text(batch, row), **places_of_row)
            alone.append((output.start_logits.argmax().item(), output.end_logits.argmax().item()))
            losses.append(output.loss)
        output = fewer.attach(model)(**batch, **places)
    starts, ends = output.start_logits.argmax(1), output.end_logits.argmax(1)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == alone
    padding = batch["attention_mask"] == 0
    assert (logits(output)[padding] == masked_score(torch.float32)).all()
    torch.testing.assert_close(output.loss, torch.stack(losses).mean(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("method", [None, LTP(final_threshold=0.2), EarlyExit()])
def test_the_loss_of_spans_does_not_depend_on_padding(method):
    model = fewer.attach(_unsure(), method).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    batch = ragged(model, columns=12)
    wide = ragged(model, columns=30)
    with fewer.applying(model, "soften"):
        close, far = (model(**item, **_places(batch)).loss for item in (batch, wide))
    torch.testing.assert_close(close, far, atol=1e-5, rtol=1e-5)


def test_spans_that_begin_on_padding_are_ignored_by_the_loss():
    model = fewer.attach(_unsure())
    batch = ragged(model)
    places = _places(batch)
    expected = model(**text(batch, 1), **{name: value[1:2] for name, value in places.items()}).loss
    outside = {name: torch.full_like(value, 11) for name, value in places.items()}
    for name in outside:
        outside[name][1] = places[name][1]
    torch.testing.assert_close(model(**batch, **outside).loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("task", ["TokenClassification", "MaskedLM"])
def test_labels_on_padding_are_ignored_by_the_loss(task, by_place):
    model = fewer.attach(tiny(task=task))
    batch = ragged(model)
    labels = torch.randint(
        0, 3, batch["input_ids"].shape, generator=torch.Generator().manual_seed(0)
    )
    ignored = labels.masked_fill(batch["attention_mask"] == 0, -100)
    expected = model(**batch, labels=ignored).loss
    if by_place and task == "TokenClassification":
        positional = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        loss = model(*positional, None, None, labels).loss
    else:
        loss = model(**batch, labels=labels).loss
    assert torch.equal(loss, expected)
    assert labels.min() >= 0  # the caller's own are left as they were


def test_labels_of_texts_are_unchanged_for_every_shape():
    model = fewer.attach(tiny(num_labels=12, problem_type="multi_label_classification"))
    batch = ragged(model)
    labels = torch.ones(5, 12)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(model(**batch).logits, labels)
    torch.testing.assert_close(model(**batch, labels=labels).loss, expected)
