"""A drawn batch, and systems that take turns."""

from __future__ import annotations

import torch

from benchmarks.support.process_times import draw_batch, time_in_turn


def test_the_batch_has_the_lengths_and_is_padded_by_0() -> None:
    batch = draw_batch([3, 1], 50)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["input_ids"][1, 1:].tolist() == [0, 0]
    assert int(batch["input_ids"][0].min()) >= 5


def test_each_round_begins_with_another_system_and_the_first_pass_is_not_timed() -> None:
    calls: list[str] = []

    def run(name: str) -> torch.Tensor:
        calls.append(name)
        return torch.tensor(len(name))

    times, outputs = time_in_turn({"a": lambda: run("a"), "bb": lambda: run("bb")}, 2)
    assert "".join(call[0] for call in calls) == "ab" + "ab" + "ba"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "bb": 2}
    assert {name: int(output) for name, output in outputs.items()} == {"a": 1, "bb": 2}
