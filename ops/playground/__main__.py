"""``python -m ops.playground``: run the playground until it is told to stop."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from ops.playground.server import Playground
from ops.playground.world import World


def main() -> None:
    """Serve until SIGTERM or SIGINT; the first line of output names the address."""
    parser = argparse.ArgumentParser(prog="python -m ops.playground", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8099, help="port; 0 takes a free one")
    parser.add_argument("--state", type=Path, help="file that keeps the state over restarts")
    arguments = parser.parse_args()
    try:
        server = Playground((arguments.host, arguments.port), World(arguments.state))
    except (OSError, ValueError) as error:
        sys.exit(f"the playground cannot start on {arguments.host}:{arguments.port}: {error}")
    asyncio.run(_serve(server, f"http://{arguments.host}:{server.port}"))


async def _serve(server: Playground, address: str) -> None:
    stopped = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    sys.stdout.write(f"playground at {address}\n")
    sys.stdout.flush()
    await server.serve(until=stopped)


if __name__ == "__main__":
    main()
