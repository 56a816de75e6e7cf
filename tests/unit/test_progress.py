"""Bars go to a terminal's standard error, once they are worth it; nothing else is written."""

import io
import sys

import pytest

import fewer
from fewer import _progress
from tests.tiny import tiny, word_tokenizer


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("items", [[], ["a"], ["a", "b", "c"], iter("abc")])
def test_items_are_yielded_and_nothing_is_written_without_a_terminal(items, capsys):
    expected = items if isinstance(items, list) else list("abc")
    assert list(_progress.track(items, "reading")) == expected
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("delay", "shown", "written"), [(0, True, True), (60, True, False), (0, False, False)]
)
def test_a_bar_shows_after_the_delay_unless_unwanted(delay, shown, written, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(_progress, "DELAY_S", delay)
    assert list(_progress.track(range(3), "reading", shown=shown)) == [0, 1, 2]
    assert ("reading" in terminal.getvalue()) == written
    assert capsys.readouterr().out == ""


def test_predict_and_tag_write_nothing_to_standard_output(capsys):
    model, tagger = fewer.attach(tiny()), fewer.attach(tiny(task="TokenClassification"))
    fewer.predict(model, word_tokenizer(), ["a b", "c"] * 20, token_budget=8)
    fewer.tag(tagger, word_tokenizer(), [["a", "b"], ["c"]], token_budget=4)
    assert capsys.readouterr().out == ""
