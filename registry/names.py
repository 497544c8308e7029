"""Name rules: allowed names, equality of names, and parsing of `name@version`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from registry.errors import InvalidInputError

MAX_LENGTH = 100
MAX_VERSION = 2**31 - 1

# Words with a special meaning in place of a name, and names that Windows cannot use for a file.
RESERVED = frozenset(
    {"all", "latest", "none", "con", "prn", "aux", "nul"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)}
)
# Alphabets with letters of the same shape. Chinese, Japanese and Korean names mix scripts, which look unlike these.
_ALIKE = frozenset({"ARMENIAN", "CHEROKEE", "COPTIC", "CYRILLIC", "GREEK", "LATIN", "LISU"})
# Small letters of other alphabets that have the shape of a Latin one.
_LOOK_LATIN = frozenset("аеорсухіјѕԁԛԝһӏ" + "ονυιρα" + "օսոհյ")
_PUNCTUATION = frozenset("._-")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class Ref:
    """A parsed `name` or `name@version`; a `version` of None means the newest."""

    name: str
    version: int | None

    @property
    def key(self) -> str:
        """Key that the database compares: equal for names that differ only by case or Unicode form."""
        return name_key(self.name)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def check_name(text: str) -> str:
    """Return `text` in its stored form (NFKC).

    Raises InvalidInputError for an empty, too long or reserved name, and for any character except letters,
    digits, '.', '_' and '-'. So path separators, white space, control and bidirectional characters are refused.
    """
    if not text:
        raise InvalidInputError("the name is empty: use letters, digits, '.', '_' and '-'")
    if len(text) > MAX_LENGTH:  # before NFKC, which can grow one character to 18
        raise _refused(text, f"has {len(text)} characters, at most {MAX_LENGTH} are allowed")
    name = unicodedata.normalize("NFKC", text)
    if len(name) > MAX_LENGTH:
        raise _refused(
            text, f"has {len(name)} characters in Unicode form NFKC, at most {MAX_LENGTH} are allowed"
        )
    wrong = next((char for char in name if not _allowed(char)), None)
    if wrong is not None:
        raise _refused(text, f"contains {wrong!a}: use letters, digits, '.', '_' and '-'")
    if name[0] in _PUNCTUATION or name[-1] == ".":
        raise _refused(
            text,
            "begins with punctuation or ends with a dot: begin with a letter or digit, and do not end with a dot",
        )
    # Windows reserves a device's name with any extension: "nul.txt" is also the device
    if name_key(name).split(".")[0] in RESERVED:
        raise _refused(text, "is reserved: choose another name")
    return name


def check_new_name(text: str) -> str:
    """Return `text` like `check_name`, for a name that is about to be published.

    Raises InvalidInputError also for a name that looks like another one: with letters of two alphabets that have equal
    shapes, or of one such alphabet but readable as Latin, such as Cyrillic 'соре'. Names that were published earlier
    may break this rule, so `check_name` does not require it.
    """
    name = check_name(text)
    alphabets = {_alphabet(char) for char in name if unicodedata.category(char)[0] == "L"} & _ALIKE
    if len(alphabets) > 1:
        raise _refused(
            text, f"mixes letters of {' and '.join(sorted(alphabets))}, which look alike: use one alphabet"
        )
    letters = {char for char in name.casefold() if unicodedata.category(char)[0] == "L"}
    if letters and letters <= _LOOK_LATIN:
        raise _refused(
            text, f"looks like a Latin name but is written in {alphabets.pop()}: use Latin letters"
        )
    return name


def _alphabet(char: str) -> str:
    """Return the first word of the character's Unicode name, such as LATIN."""
    return unicodedata.name(char, "").partition(" ")[0]


def name_key(name: str) -> str:
    """Return the form in which names are unique: NFKC and casefold, so 'Ｐython' equals 'python'."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", folded)  # the result of casefold may not be NFKC


def parse_ref(text: str) -> Ref:
    """Parse `name` or `name@version`. Raises InvalidInputError for any other form."""
    name, at, version = text.partition("@")
    if not at:
        return Ref(check_name(name), None)
    if not _VERSION.fullmatch(version) or int(version) > MAX_VERSION:
        raise InvalidInputError(
            f"{_shown(text)}: {_shown(version)} is not a version: write name@N with N from 1 to {MAX_VERSION}"
        )
    return Ref(check_name(name), int(version))


def is_alias(text: str) -> bool:
    """Return whether a reference has the form `name@word`, not `name` or `name@version`."""
    return _ALIAS.fullmatch(text.partition("@")[2]) is not None


def parse_alias(text: str) -> tuple[str, str]:
    """Parse `name@word` into the name's key and the word. Raises InvalidInputError for any other form."""
    name, _, alias = text.partition("@")
    if not is_alias(text):
        raise InvalidInputError(
            f"{_shown(text)} is not an alias: write name@word, such as law@stable; "
            "the word has lower-case letters, digits and '-'"
        )
    return name_key(check_name(name)), alias


def parse_name(text: str) -> Ref:
    """Parse a name that has no version, such as a seed's. Raises InvalidInputError for `name@version`."""
    if "@" in text:
        raise InvalidInputError(
            f"{_shown(text)}: expected a plain name: seeds have no versions, so remove the '@' and the text after it"
        )
    return Ref(check_name(text), None)


def _allowed(char: str) -> bool:
    return char in _PUNCTUATION or unicodedata.category(char)[0] in "LMN"


def _refused(text: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"the name {_shown(text)} {reason}")


def _shown(text: str) -> str:
    """Return escaped, shortened text, so that a hostile name cannot disturb a terminal."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
