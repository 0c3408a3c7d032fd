"""prices.yaml: what it may say, and what the usage of an action comes to."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agents.runtime.catalogue import Prices, Usage, load_catalogue, load_prices
from agents.runtime.declarations import DeclarationError
from agents.runtime.settings import ROOT
from schemas import CostEstimate

ACTIONS = """\
environments: {}
actions:
  backup.take:
    description: Take a backup.
    executor: http
    effect: read
    risk: low
    cost: {llm_tokens: 0.25}
    usage: {api_calls: 3, database_storage: 0.5}
"""


def prices(tmp_path: Path, text: str) -> Prices:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    return load_prices(file)


def problems(error: DeclarationError) -> list[str]:
    return [f"{each.line} {each.path}: {each.wrong}; {each.expected}" for each in error.problems]


def test_usage_costs_what_the_table_says_each_part_rounded_up(tmp_path: Path) -> None:
    table = prices(
        tmp_path, "prices:\n  compute_hours: 0.4\n  llm_tokens: {usd: 3, per: 1000000}\n"
    )
    cost = table.cost_of(Usage(compute_hours=Decimal("0.05"), llm_tokens=Decimal("0.1")))
    assert cost == CostEstimate(compute_hours=Decimal("0.02"), llm_tokens=Decimal("0.000001"))
    assert cost.total == Decimal("0.020001")


def test_an_amount_is_exactly_the_digits_that_were_written(tmp_path: Path) -> None:
    table = prices(tmp_path, "prices: {api_calls: 0.1, compute_hours: {usd: 0.3}}")
    assert table.api_calls is not None
    assert table.compute_hours is not None
    assert (table.api_calls.usd, table.compute_hours.usd) == (Decimal("0.1"), Decimal("0.3"))


def test_every_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    text = """\
prices:
  compute_hour: 0.4
  api_calls: {usd: -1, per: 0}
  llm_tokens: cheap
  database_storage: {per: 5}
"""
    with pytest.raises(DeclarationError) as caught:
        prices(tmp_path, text)
    found = problems(caught.value)
    assert [each.split(":")[0] for each in found] == [
        "2 prices.compute_hour",
        "3 prices.api_calls.usd",
        "3 prices.api_calls.per",
        "4 prices.llm_tokens",
        "5 prices.database_storage.usd",
    ]
    assert "did you mean 'compute_hours'?" in found[0]
    assert "'cheap' is no price; an amount, or a mapping with usd and per" in found[3]
    assert "it is missing" in found[4]


def test_an_empty_table_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="the file is empty"):
        prices(tmp_path, "")


def load(tmp_path: Path, text: str, table: Prices) -> Any:
    file = tmp_path / "actions.yaml"
    file.write_text(text)
    return load_catalogue(file, prices=table).action("backup.take")


def test_an_attempt_costs_what_the_action_says_and_what_it_uses(tmp_path: Path) -> None:
    table = prices(tmp_path, "prices: {api_calls: {usd: 0.1, per: 1000}, database_storage: 0.10}")
    assert load(tmp_path, ACTIONS, table).cost == CostEstimate(
        api_calls=Decimal("0.0003"), database_storage=Decimal("0.05"), llm_tokens=Decimal("0.25")
    )


def test_usage_without_a_price_is_a_mistake_of_the_catalogue(tmp_path: Path) -> None:
    table = prices(tmp_path, "prices: {api_calls: 1}")
    with pytest.raises(DeclarationError) as caught:
        load(tmp_path, ACTIONS, table)
    [problem] = problems(caught.value)
    assert problem == (
        '9 actions."backup.take".usage.database_storage: database_storage has no price; '
        "a price for it in prices.yaml"
    )


def test_an_attempt_that_no_ledger_could_hold_is_refused(tmp_path: Path) -> None:
    table = prices(tmp_path, "prices: {api_calls: 1000000, database_storage: 1}")
    with pytest.raises(DeclarationError, match=r"actions.yaml:9: .* too dear"):
        load(tmp_path, ACTIONS, table)
    dear = ACTIONS.replace("llm_tokens: 0.25", "llm_tokens: 1000001")
    with pytest.raises(DeclarationError, match=r"actions.yaml:8: .* too dear"):
        load(tmp_path, dear, table)


def test_the_shipped_table_prices_all_that_the_shipped_catalogue_uses() -> None:
    catalogue = load_catalogue(ROOT / "actions.yaml", prices=load_prices(ROOT / "prices.yaml"))
    assert catalogue.action("service.restart").cost == CostEstimate(
        api_calls=Decimal("0.0001"), compute_hours=Decimal("0.02")
    )
