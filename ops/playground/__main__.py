"""``python -m ops.playground``: run the playground until it is told to stop."""

import argparse
import signal
import sys
import threading
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

    def stop(_signal: int, _frame: object) -> None:
        # shutdown() waits for serve_forever() to return, so it must not run in this thread.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sys.stdout.write(f"playground at http://{arguments.host}:{server.port}\n")
    sys.stdout.flush()
    with server:
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
