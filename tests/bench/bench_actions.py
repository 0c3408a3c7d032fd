"""The function that the benchmark's only action calls."""

from agents.executors.python import action_function


@action_function
async def noop() -> dict[str, str]:
    """Do nothing: what is measured is the pipeline."""
    return {}
