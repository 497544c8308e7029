"""Warnings that transformers logs, which a user would see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def library_warnings() -> Iterator[list[str]]:
    """Collect the warnings, also those that are logged once per process."""
    from transformers.utils import logging as _defines_warning_once  # noqa: F401

    once: Any = logging.Logger
    once.warning_once.cache_clear()
    logger, kept = logging.getLogger("transformers"), _Kept()
    logger.addHandler(kept)
    try:
        yield kept.messages
    finally:
        logger.removeHandler(kept)
