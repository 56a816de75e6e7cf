"""How tags of entities are spelled: `B-PER`, `b-per`, `B_PER`, `PER-B`, `B` alone.

`canonical` writes the tags of a label set as `PREFIX-TYPE`, the prefix a capital, as seqeval knows
them; a prefix alone has the type `_`, as in seqeval. Prefixes: B, I, O; of BIOES, BMES, BILOU
and BMEWO also E, S, M, L, U, W. Label sets of anything else (word classes) have no scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from fewer.tasks.columns import few

OUTSIDE = "O"
UNTYPED = "_"  # seqeval's type of a prefix alone

_PREFIXES = "BIESMLUW"
_USUAL = re.compile(rf"([{_PREFIXES}])-(.+)", re.DOTALL)
_SEPARATORS = "-_:/."

Parse = Callable[[str], tuple[str, str] | None]


def canonical(label_names: Iterable[str]) -> dict[str, str]:
    """Write each tag of entities as `PREFIX-TYPE`, and the tag of words outside as "O".

    Tags of no entity are left out; the result is empty for a label set that has no scheme. In the
    usual spelling (`B-PER`) other names may stand beside; any other spelling is taken for one only
    if all names but "O" follow it.

    >>> canonical(["o", "b_per", "i_per"])
    {'o': 'O', 'b_per': 'B-per', 'i_per': 'I-per'}
    >>> canonical(["B", "I", "O"]), canonical(["NOUN", "VERB"])
    ({'B': 'B-_', 'I': 'I-_', 'O': 'O'}, {})
    """
    return dict(_canonical(tuple(label_names)))


def outside(label_names: Sequence[str]) -> str:
    """Name the tag of a word in no entity: "O" or "o", else the first label."""
    return next((name for name in (OUTSIDE, "o") if name in label_names), label_names[0])


def check_spelling(label_names: Iterable[str], where: str) -> None:
    """Raise `ValueError` for tags of one label set in two spellings, or with an unknown prefix."""
    names = list(label_names)
    known = canonical(names)
    types = {tag[2:].lower() for tag in known.values() if tag != OUTSIDE}
    for name in names:
        if name not in known and types & _types_of(name):
            raise ValueError(
                f"{where}: tags must all be written alike, with one of the prefixes "
                f"{', '.join(_PREFIXES)}; got {name!r} among {few(names)}. Rename it."
            )


@lru_cache(maxsize=64)
def _canonical(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    tags = [name for name in dict.fromkeys(names) if name not in (OUTSIDE, "o")]
    usual = {name: match for name in tags if (match := _USUAL.fullmatch(name))}
    if len(usual) == len(tags) or any(match[1] in "BI" for match in usual.values()):
        spelled = {name: f"{match[1]}-{match[2]}" for name, match in usual.items()}
        spelled |= {tag: f"{tag}-{UNTYPED}" for tag in tags if len(tag) == 1 and tag in _PREFIXES}
    else:
        spelled = _other_spelling(tags)
    if spelled or set(names) == {OUTSIDE}:
        spelled |= {name: OUTSIDE for name in names if name in (OUTSIDE, "o")}
    return tuple((name, spelled[name]) for name in dict.fromkeys(names) if name in spelled)


def _other_spelling(tags: list[str]) -> dict[str, str]:
    """Find the one spelling that all tags follow, some of them with B or I."""
    for parse in _spellings():
        parts = [parse(tag) for tag in tags]
        found = [part for part in parts if part is not None]
        if found and len(found) == len(tags) and any(prefix in "BI" for prefix, _ in found):
            return {
                tag: f"{prefix}-{type_}" for tag, (prefix, type_) in zip(tags, found, strict=True)
            }
    return {}


def _spellings() -> list[Parse]:
    """List the spellings beside `B-PER`: a prefix alone, small letters, other marks, suffixes."""
    found: list[Parse] = []
    for letters in (_PREFIXES, _PREFIXES.lower()):
        found.append(_parser(rf"(?P<prefix>[{letters}])(?P<type>)"))
        for mark in map(re.escape, _SEPARATORS):
            found.append(_parser(rf"(?P<prefix>[{letters}]){mark}(?P<type>.+)"))
            found.append(_parser(rf"(?P<type>.+){mark}(?P<prefix>[{letters}])"))
    return found


def _parser(pattern: str) -> Parse:
    compiled = re.compile(pattern, re.DOTALL)

    def parse(tag: str) -> tuple[str, str] | None:
        match = compiled.fullmatch(tag)
        return match and (match["prefix"].upper(), match["type"] or UNTYPED)

    return parse


def _types_of(name: str) -> set[str]:
    """Return what may be the type in a name, in small letters, if it looks like a tag at all."""
    marks = re.escape(_SEPARATORS)
    patterns = (rf"[A-Za-z]{{1,2}}[{marks}](.+)", rf"(.+)[{marks}][A-Za-z]")
    matches = (re.fullmatch(pattern, name, re.DOTALL) for pattern in patterns)
    return {match[1].lower() for match in matches if match}
