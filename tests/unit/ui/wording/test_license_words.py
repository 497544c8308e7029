"""The consequences of a licence, in words."""

from __future__ import annotations

import pytest

from ui.wording.licenses import licence_words


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("Apache-2.0 AND MIT", "Commercial use is permitted. Keep the authors' notices."),
        ("Apache-2.0 AND CC-BY-NC-4.0", "Non-commercial use only, because of CC-BY-NC-4.0."),
        ("CC-BY-SA-4.0 AND MIT", "Who shares the mix must do so under CC-BY-SA-4.0."),
        ("GPL-3.0-or-later", "Who shares the mix must do so under GPL-3.0-or-later."),
        ("LicenseRef-x AND MIT", "Read the terms of LicenseRef-x first: they are not known here."),
        (
            "LicenseRef-gemma AND MIT",
            "The use is restricted: read LicenseRef-gemma (https://ai.google.dev/gemma/terms).",
        ),
        ("MIT AND (", "Read the terms of MIT AND ( before you use the mix."),
    ],
)
def test_a_licence_is_explained(expression: str, words: str) -> None:
    assert licence_words(expression) == words
