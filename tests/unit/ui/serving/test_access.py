"""Access to the API: a key beyond this machine."""

from __future__ import annotations

import pytest

from registry.errors import InvalidInputError
from ui.serving.server import KEY_VARIABLE, check_key


def test_beyond_this_machine_a_key_is_required() -> None:
    check_key("localhost", None)
    check_key("127.0.0.1", None)
    check_key("0.0.0.0", "a-long-secret")
    for address in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(InvalidInputError, match=KEY_VARIABLE):
            check_key(address, None)


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "line\nbreak"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(InvalidInputError, match="ASCII"):
        check_key("localhost", key)
