"""What `scripts/check_words.py` refuses, and where."""

from pathlib import Path

from scripts.check_words import NOT_YET, SOURCE, checked, faults


def test_retired_names_and_pronouns_are_refused_by_line():
    source = """
class Lesson:
    def adjust(self, told):
        return [one for one in told if (found := one)]
"""
    assert sorted(faults(source)) == [
        (2, "Lesson is TrainingBatch now"),
        (3, "adjust is set_threshold now"),
        (3, "parameter told: name its type or quantity"),
        (4, "variable found: name its type or quantity"),
        (4, "variable one: name its type or quantity"),
    ]


def test_reading_a_name_or_an_attribute_is_no_fault():
    assert list(faults("logits = outputs.found + found\nleft, right = sides\n")) == []


def test_a_package_is_checked_once_its_line_is_removed(tmp_path: Path):
    for name in ("pack/inner/a.py", "package/b.py", "c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("said = 1\n")
    message = "variable said: name its type or quantity"
    assert checked(tmp_path, ("c.py", "pack")) == [f"package/b.py:1: {message}"]
    assert checked(tmp_path, ("package", "c.py")) == [f"pack/inner/a.py:1: {message}"]


def test_what_is_not_checked_yet_exists_and_the_rest_is_clean():
    assert [entry for entry in NOT_YET if not (SOURCE / entry).exists()] == []
    assert checked(SOURCE, NOT_YET) == []
