"""Measure what a visitor of the web app costs the server: python -m bench.users HOME [--visitors 50].

Each visitor is a WebSocket of Streamlit's own protocol that stays connected. It draws the catalog, then searches once.
The output is the server's CPU seconds and own memory per visitor; docs/SCALE.md plans servers with them. HOME is a
registry, such as one that bench/crowd.py filled.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from bench.browser import served
from bench.processes import load_average

FINISHED = ForwardMsg.FINISHED_SUCCESSFULLY


async def _draw(socket: ClientConnection, query: str) -> int:
    """Run the page's script once, and return the bytes of its answers."""
    asked = BackMsg()
    asked.rerun_script.query_string = query
    await socket.send(asked.SerializeToString())
    size = 0
    async for message in socket:
        assert isinstance(message, bytes)
        size += len(message)
        answer = ForwardMsg.FromString(message)
        if answer.WhichOneof("type") == "script_finished" and answer.script_finished == FINISHED:
            break
    return size


async def _visit(url: str, count: int) -> tuple[list[ClientConnection], int]:
    """Connect visitors one after another, so that each page is drawn alone; return them and the bytes of a page."""
    parts = urlsplit(url)
    stream = f"ws://{parts.netloc}/_stcore/stream"
    visitors, size = [], 0
    for _ in range(count):
        socket = await connect(
            stream, subprotocols=["streamlit"], origin=f"http://{parts.netloc}", max_size=None
        )
        size = await _draw(socket, "")
        visitors.append(socket)
    return visitors, size


async def measure(url: str, server: psutil.Process, visitors: int) -> None:
    """Print the costs of visitors that stay connected."""

    def used() -> tuple[float, float, float]:
        times = server.cpu_times()
        return server.memory_full_info().uss / 2**20, times.user + times.system, time.monotonic()

    first, size = await _visit(url, 1)
    memory, cpu, began = used()
    others, _ = await _visit(url, visitors)
    after, spent, ended = used()
    print(
        f"| connect and draw the catalog | {(spent - cpu) / visitors:.3f} | {(ended - began) / visitors:.3f} "
        f"| {(after - memory) / visitors:.2f} | {size / 1e3:.0f} |"
    )
    for number, socket in enumerate(others):
        size = await _draw(socket, f"q=court+contract+{number}")
    searched, more, now = used()
    print(
        f"| search | {(more - spent) / visitors:.3f} | {(now - ended) / visitors:.3f} "
        f"| {(searched - after) / visitors:.2f} | {size / 1e3:.0f} |"
    )
    print(f"\nserver after the first visitor {memory:.0f} MiB, with {visitors + 1} {searched:.0f} MiB")
    for socket in (*first, *others):
        await socket.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--visitors", type=int, default=50)
    given = parser.parse_args()
    with served(given.home) as app:
        port = urlsplit(app.url).port
        [server] = {
            psutil.Process(each.pid)
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid
        }
        print(f"load {load_average():.1f}\n\n| visit | CPU s | s | MiB | kB sent |\n|---|---|---|---|---|")
        asyncio.run(measure(app.url, server, given.visitors))


if __name__ == "__main__":
    main()
