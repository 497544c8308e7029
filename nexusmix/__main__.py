"""The command `nexusmix`, also as `python -m nexusmix`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command and return its exit code. Ctrl-C during the imports ends it like Ctrl-C later."""
    try:
        from ui.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
