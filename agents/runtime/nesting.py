"""How deep JSON may nest.

Every reader of JSON has a depth at which it gives up, and an envelope adds levels to what it
carries: a value that can just be read here would be unreadable inside a run's record. So values
from outside are held to a depth that leaves room for all of that.
"""

from typing import Any, Final

MAX_DEPTH: Final = 64
"""Objects and arrays inside each other that a value from outside may have."""


def is_too_deep(value: Any) -> bool:
    """Whether ``value`` nests deeper than :data:`MAX_DEPTH`; looks no deeper than that."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for each in level
            for child in (
                each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
            )
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
