"""The executor of the contributing guide, as it stands there."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.clocks import RecordingClock
from support.steps import Rig, action

from agents.runtime.errors import ConfigurationError
from agents.runtime.settings import ROOT


@pytest.fixture
def journal() -> dict[str, Any]:
    """What the module in the guide defines."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"`agents/executors/journal\.py`:\n\n *```python\n(.*?)```", guide, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"__name__": "journal"}
    exec(compile(textwrap.dedent(found[1]), "journal.py", "exec"), names)  # noqa: S102
    return names


async def test_it_does_what_the_guide_says(journal: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "journal.txt"
    spec = action(
        executor="journal",
        effect="effect",
        parameters={"line": "string"},
        settings={"file": str(file)},
    )
    rig = Rig((spec,), clock=RecordingClock())
    assignment = await rig.approved({"line": "one {line}"})
    async with rig.hosted(journal["write"]) as handler:
        assert (await assignment.run(handler)).status == "success"
        await assignment.run(handler)
    assert file.read_text() == "one {line}\n"


async def test_it_names_what_is_wrong_before_it_starts(journal: dict[str, Any]) -> None:
    spec = action(executor="journal", settings={"file": "x", "line": "{typo}"})
    with pytest.raises(ConfigurationError, match="typo"):
        async with Rig((spec,)).hosted(journal["write"]):
            pass
