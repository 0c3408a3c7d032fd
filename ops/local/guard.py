"""Ends a child process whose owner has died without ending it. Run as a script, never imported.

    python guard.py PID SIGNAL SECONDS

The owner holds the other end of standard input. A line there means that the child has been ended
in the ordinary way; an end of file without one means that the owner is gone, however it died. Then
the child gets SIGNAL, and SIGKILL when it still lives after SECONDS.

Linux could send the signal itself (PR_SET_PDEATHSIG), but does so when the *thread* that started
the child ends, needs code between fork and exec, and macOS has nothing like it.
"""

import os
import signal
import sys
import time


def main() -> None:
    """Wait for the owner's word, or for its death."""
    pid, stop_signal, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    if sys.stdin.buffer.readline():
        return
    try:
        # A paused process takes no signal but these two.
        os.killpg(pid, signal.SIGCONT)
        os.kill(pid, stop_signal)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
