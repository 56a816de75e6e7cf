"""ERNIE's embedding of the task."""

from __future__ import annotations

import pytest
import torch

import fewer
from tests.tiny import ragged, tiny


@pytest.mark.parametrize("use_task_id", [True, False])
def test_the_task_is_task_0_where_there_are_tasks(use_task_id: bool) -> None:
    model = tiny("ernie", use_task_id=use_task_id)
    batch = ragged(model)
    with torch.no_grad():
        expected = model(**batch).logits
        packed = fewer.attach(model)(**batch).logits
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)


def test_another_task_is_refused_by_name() -> None:
    model = fewer.attach(tiny("ernie"))
    batch = ragged(model)
    with pytest.raises(ValueError, match="task_type_ids"):
        model(**batch, task_type_ids=torch.ones_like(batch["input_ids"]))
