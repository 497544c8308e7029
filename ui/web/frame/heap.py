"""The server's heap: imported libraries are excluded from garbage collections, so that each is short."""

from __future__ import annotations

import gc
import sys

NEW_MODULES = 100  # fewer are not worth a collection
_frozen_modules = 0


def exclude_imports() -> None:
    """Exclude the modules that were imported since the last call from garbage collections, if they are many.

    Streamlit requests a full collection after every run of a page. With torch imported, it would traverse more than
    a million objects that never become garbage, for most of the time of a run.
    """
    global _frozen_modules
    if len(sys.modules) - _frozen_modules < NEW_MODULES:
        return
    _frozen_modules = len(sys.modules)
    gc.collect()
    gc.freeze()
