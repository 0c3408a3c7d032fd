"""A worker or a sink of the product, as its own command starts it, with faults put in from outside.

Run as a script: ``faulty_worker.py worker|sink --ready-file FILE [--barrier NAME --hit K
[--freeze]] [--condition NAME] [--mistake NAME]``.
"""

import argparse
from pathlib import Path

from faults import barriers, mistakes

from ops import sinking
from ops import worker as working


def main() -> None:
    """Put the faults in, then be a worker or a sink until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("worker", "sink"))
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--barrier", choices=barriers.BARRIERS)
    parser.add_argument("--hit", type=int, default=1)
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--condition", choices=mistakes.CONDITIONS)
    parser.add_argument("--mistake", choices=mistakes.MISTAKES)
    arguments = parser.parse_args()
    if arguments.condition is not None:
        mistakes.CONDITIONS[arguments.condition]()
    if arguments.mistake is not None:
        mistakes.MISTAKES[arguments.mistake]()
    if arguments.barrier is not None:
        barriers.put(arguments.barrier, hit=arguments.hit, freeze=arguments.freeze)
    if arguments.part == "worker":
        working.work(None, arguments.ready_file)
    else:
        sinking.run(arguments.ready_file)


if __name__ == "__main__":
    main()
