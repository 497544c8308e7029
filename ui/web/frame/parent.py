"""The server's connection to the process that started it: reports that it listens, and ends with that process."""

from __future__ import annotations

import os
import signal
import threading

# Set by ui/web/launch.py for its server: the number of an open socket. Absent: the server was started by hand.
PARENT_VARIABLE = "NEXUSMIX_PARENT"


def report_listening() -> None:
    """Tell the parent that this server listens, and kill this process when the parent has ended for any reason.

    Raises BrokenPipeError if the parent has ended already.
    """
    descriptor = os.environ.pop(PARENT_VARIABLE, None)
    if descriptor is None:
        return
    os.write(int(descriptor), b"\n")
    threading.Thread(target=_end_with_parent, args=(int(descriptor),), daemon=True).start()


def _end_with_parent(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
