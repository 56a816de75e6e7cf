"""What the benchmarks train, score and time."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import benchmarks


def _option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        # dense, and what the method trains the model on: 3 + (2 + 1), 6 + (3 + 2); 2 + (1 + 0.5)
        (
            "tagging",
            {
                "conll2003-tokee": "6",
                "resume-tokee": "11",
                "ewt-pos-tokee": "6",
                "conll2003-minilm-tokee": "4",
            },
        ),
        ("sst2", {"sst2-ltp": "3.5"}),
        ("imdb", {"imdb-ltp": "3.5"}),
    ],
)
def test_a_method_is_held_against_a_dense_model_that_trained_as_long(
    name: str, epochs: dict[str, str]
) -> None:
    commands = benchmarks()[name]
    longer = {
        _option(command, "--output"): command for command in commands if "--dense-epochs" in command
    }
    for recipe, wanted in epochs.items():
        command = longer[f"runs/{recipe}-longer-42"]
        assert _option(command, "--dense-epochs") == wanted
        assert _option(command, "--method") == "dense"
    scored = [command for command in commands if command[0] in ("evaluate", "bench")]
    assert len(scored) >= 2
    for command in scored:
        assert _option(command, "--baseline").removesuffix("/model") in longer
