"""Reading actions.yaml."""

from pathlib import Path

from agents.runtime.catalogue.actions import ActionSpec, Catalogue
from agents.runtime.catalogue.checks import Checks, Executors
from agents.runtime.catalogue.entries import ActionDeclaration, CatalogueFile
from agents.runtime.catalogue.prices import Prices, load_prices
from agents.runtime.declarations import Document
from agents.runtime.settings import ROOT


def load_catalogue(
    path: Path, executors: Executors | None = None, *, prices: Prices | None = None
) -> Catalogue:
    """Read and check the catalogue at ``path``.

    Args:
        path: The file, usually actions.yaml.
        executors: By name, the models of their settings; without them ``with`` is not checked.
        prices: What usage costs; if not given, what the checkout's prices.yaml says.

    Raises:
        DeclarationError: A file has problems; all of them are named, with their lines.
    """
    prices = load_prices(ROOT / "prices.yaml") if prices is None else prices
    document = Document(path, CatalogueFile)
    sound = document.sound()
    if sound is not None:
        Checks(document, executors, prices).run(sound)
    declared = document.close(sound)
    catalogue = Catalogue(
        environments=declared.environments,
        entities=declared.entities,
        actions={},
        source=document.file,
        connections=declared.connections,
        private_hosts=declared.private_hosts,
    )
    actions = {
        action_id: _resolve(
            action,
            catalogue,
            prices,
            action_id=action_id,
            source=f"{document.file}:{document.line_of(('actions', action_id))}",
        )
        for action_id, action in declared.actions.items()
    }
    return catalogue.model_copy(update={"actions": actions})


def _resolve(
    action: ActionDeclaration,
    catalogue: Catalogue,
    prices: Prices,
    *,
    action_id: str,
    source: str,
) -> ActionSpec:
    fields = {name: getattr(action, name) for name in ActionDeclaration.model_fields}
    fields["cost"] = action.cost + prices.cost_of(action.usage)
    fields["parameters"] = {
        name: spec
        if spec.entity is None
        else spec.model_copy(update={"choices": tuple(catalogue.names(spec.entity))})
        for name, spec in action.parameters.items()
    }
    return ActionSpec(id=action_id, source=source, **fields)
