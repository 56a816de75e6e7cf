import re

import pytest

from fewer._validation.names import check_known, nearest


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("lpt", ["dense", "ltp"], " (did you mean 'ltp'?)"),
        ("LPT", ["dense", "ltp"], " (did you mean 'ltp'?)"),
        ("Noum", ["VERB", "NOUN"], " (did you mean 'NOUN'?)"),
        ("flash", ["dense", "ltp"], ""),
        ("ltp", [], ""),
        (12, ["11", "120"], " (did you mean '120'?)"),
        (["ltp"], ["ltp"], " (did you mean 'ltp'?)"),
    ],
)
def test_the_nearest_name_is_suggested(name, names, message):
    assert nearest(name, names) == message


def test_an_unknown_name_is_refused_with_the_nearest_and_all_names():
    message = "method must be one of dense, ltp; got 'lpt' (did you mean 'ltp'?)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_known("lpt", iter(["dense", "ltp"]), "method")
    with pytest.raises(ValueError, match=r"^method 'dense': setting .*'x'\.$"):
        check_known("x", [], "method 'dense': setting")


def test_a_known_name_passes_and_another_type_does_not():
    check_known("ltp", {"dense": 1, "ltp": 2}, "method")
    with pytest.raises(ValueError, match=r"method .*\['ltp'\]"):
        check_known(["ltp"], {"ltp": 2}, "method")
