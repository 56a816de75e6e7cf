"""Validate names; errors suggest the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["check_known", "describe_unknown", "nearest"]


def check_known(name: object, names: Iterable[str], kind: str) -> None:
    """Raise `ValueError` for a `name` that is not among `names`; `kind` describes them."""
    names = list(names)
    if name not in names:
        raise ValueError(describe_unknown(name, names, kind))


def describe_unknown(name: object, names: Iterable[str], kind: str) -> str:
    """Describe an unknown name, with the known ones and the nearest of them."""
    names = list(names)
    listing = f"one of {', '.join(names)}" if names else "absent (none is known)"
    return f"{kind} must be {listing}; got {name!r}{nearest(name, names)}."


def nearest(name: object, names: Iterable[str]) -> str:
    """Return a remark in brackets with the nearest of `names`, ignoring case, or "".

    Example: nearest("lpt", ["ltp", "dense"]) is " (did you mean 'ltp'?)".
    """
    by_lower = {candidate.lower(): candidate for candidate in names}
    matches = get_close_matches(str(name).lower(), by_lower, n=1)
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""
