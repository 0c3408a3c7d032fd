"""TCP ports on the loopback interface."""

import random
import socket
import threading
from typing import Final

LOOPBACK: Final = "127.0.0.1"

# Below the ranges from which Linux (32768 up) and macOS (49152 up) take the local ports of outgoing
# connections. From within them a port may be gone before the server binds it, and a client that
# keeps knocking at a stopped server's port can end up connected to itself.
_CANDIDATES: Final = range(20_000, 32_000)

_handed_out: set[int] = set()
_lock = threading.Lock()


def free_port() -> int:
    """Return a port nobody listens on, and never the same one twice in this process.

    Raises:
        OSError: None was found.
    """
    # Where to start looking only has to differ between processes; nothing secret hangs on it.
    chooser = random.SystemRandom()
    with _lock:
        for port in chooser.sample(_CANDIDATES, k=len(_CANDIDATES)):
            if port not in _handed_out and _can_bind(port):
                _handed_out.add(port)
                return port
    raise OSError(f"no free port between {_CANDIDATES.start} and {_CANDIDATES.stop - 1}")


def is_listening(port: int, *, timeout: float = 1.0) -> bool:
    """Return whether something accepts connections on a loopback port; wait ``timeout`` seconds."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout):
            return True
    except OSError:
        return False


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
