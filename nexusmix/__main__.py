"""The command `nexusmix`, also as `python -m nexusmix`."""

from __future__ import annotations

import gc
import sys

# Imports create many objects but no garbage. Python's default collection frequency costs 15 % of their time.
_THRESHOLD = 50_000


def main() -> int:
    """Run the command and return its exit code. Ctrl-C during the imports ends it like Ctrl-C later."""
    gc.set_threshold(_THRESHOLD)
    try:
        from ui.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
