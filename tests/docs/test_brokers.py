"""The page of brokers is made from what the code declares, and each broker has a page of the same shape."""

import re

import pytest

from murmur import wiring
from tests.docs.snippets import ROOT
from tools import brokers

PAGES = sorted((ROOT / "docs" / "how-to" / "brokers").glob("*.md"))
SECTIONS = ["What is lost, and when", "The rights a user needs", "Scale workers with KEDA"]


def test_the_tables_are_those_of_the_code() -> None:
    text = brokers.PAGE.read_text(encoding="utf-8")
    assert brokers.page(text) == text, "write them: python -m tools.brokers"


def test_a_page_without_a_place_for_a_table_is_noticed() -> None:
    with pytest.raises(ValueError, match="durability"):
        brokers.page(brokers.PAGE.read_text(encoding="utf-8").replace("<!-- end of durability -->", ""))


def test_every_broker_has_a_page() -> None:
    assert {page.stem for page in PAGES} == {
        module.rpartition(".")[2] for module, extra in wiring._TRANSPORTS.values() if extra
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_a_broker_has_what_the_others_have(page: object) -> None:
    text = page.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    found = [title for title in re.findall(r"^## (.*)$", text, re.MULTILINE) if title in SECTIONS]
    assert found == SECTIONS
    assert "murmur doctor --broker" in text
    assert "| URL | what it means |" in text
