"""``millstream demo``, which ``make demo`` runs."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.command_line import environment

from ops.story import STORY

pytestmark = [pytest.mark.integration, pytest.mark.e2e]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that every user can reach, as the system's own is."""
    folder = Path(tempfile.mkdtemp(prefix="demo-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_demo_tells_its_story_and_leaves_nothing_behind(temporary: Path) -> None:
    began = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-m", "ops.cli", "demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
        stdin=subprocess.DEVNULL,
        env=environment(TMPDIR=str(temporary)),
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert time.monotonic() - began < 60
    assert finished.stderr == ""
    for number, scene in enumerate(STORY, start=1):
        assert f"{number}. {scene.intro}" in finished.stdout
    for part in (
        "✔ service.restart",
        "attempt 3",
        "In which environment?",
        "production allows at most medium risk",
        "checkout: 2.4.1 is newer than 2.4.0.",
        "What changed in the playground",
        "approved by ann; still wanted: 1 person",
        "approved by ann and bob",
        "millstream.requests.v1             7",
        "history.executions        7",
        "The story came out as expected",
    ):
        assert part in finished.stdout
    assert "\x1b" not in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 110
    assert left_in(temporary) == []
    assert processes_of(temporary) == []


def left_in(temporary: Path) -> list[str]:
    """What is there; a copy of Postgres's programs, kept for the next time, is no leftover."""
    return [
        path.name
        for path in temporary.iterdir()
        if not path.name.startswith("millstream-postgres-programs-")
    ]


def processes_of(temporary: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == str(temporary):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
