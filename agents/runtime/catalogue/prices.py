"""The price table, prices.yaml: what the usage that actions declare costs."""

from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from agents.runtime.declarations import Declaration, Document, show, wrong_value
from schemas import CostEstimate

_MILLIONTH: Final = Decimal("0.000001")

_Quantity = Annotated[Decimal, Field(ge=0, le=1_000_000_000)]


class Usage(Declaration):
    """How much of what has a price one attempt at an action uses."""

    database_storage: _Quantity = Decimal(0)
    """Gigabytes that are kept for a month"""
    compute_hours: _Quantity = Decimal(0)
    """Hours of computing"""
    api_calls: _Quantity = Decimal(0)
    """Calls of interfaces that charge for each"""
    llm_tokens: _Quantity = Decimal(0)
    """Tokens of language models, read or written"""


class Price(Declaration):
    """What some units of a resource cost."""

    usd: Annotated[Decimal, Field(ge=0, le=1_000_000)]
    """The amount in US dollars"""
    per: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1
    """For how many units; 1 if not given"""

    @model_validator(mode="before")
    @classmethod
    def _read_bare_amount(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {**value, "usd": _exact(value["usd"])} if "usd" in value else value
        if isinstance(value, cls) or value is None:
            return value
        if isinstance(amount := _exact(value), Decimal):
            return {"usd": amount}
        raise wrong_value(f"{show(value)} is no price", "an amount, or a mapping with usd and per")


class Prices(Declaration):
    """What a unit of each resource costs; nothing where the table leaves it out."""

    database_storage: Price | None = None
    """The price of a gigabyte that is kept for a month"""
    compute_hours: Price | None = None
    """The price of an hour of computing"""
    api_calls: Price | None = None
    """The price of a call"""
    llm_tokens: Price | None = None
    """The price of a token"""

    def missing_for(self, usage: Usage) -> list[str]:
        """The resources that are used and have no price."""
        return [
            name
            for name in Usage.model_fields
            if getattr(usage, name) and getattr(self, name) is None
        ]

    def cost_of(self, usage: Usage) -> CostEstimate:
        """What ``usage`` costs, each part rounded up to a millionth of a dollar.

        A resource without a price costs nothing; the catalogue does not let an action use one.
        """
        return CostEstimate(
            **{
                name: _amount(getattr(usage, name), getattr(self, name))
                for name in Usage.model_fields
            }
        )


class PricesFile(Declaration):
    """The root of prices.yaml."""

    prices: Prices
    """The price of each resource: an amount, or a mapping with usd and per"""


def load_prices(path: Path) -> Prices:
    """Read and check the price table at ``path``.

    Raises:
        DeclarationError: The file has problems; all of them are named, with their lines.
    """
    document = Document(path, PricesFile)
    return document.close(document.sound()).prices


def _exact(value: Any) -> Any:
    """A number as its digits were written; anything else as it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Decimal(str(value)) if is_number else value


def _amount(quantity: Decimal, price: Price | None) -> Decimal:
    if price is None or not quantity:
        return Decimal(0)
    return (quantity * price.usd / price.per).quantize(_MILLIONTH, rounding=ROUND_CEILING)
