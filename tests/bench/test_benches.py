"""What benches make of their loads and rounds, without measuring anything."""

from collections import Counter
from itertools import islice

import pytest

from tests.bench.books import account
from tests.bench.figures import order_of
from tests.bench.read_load import MIX, Waited, _Load
from tests.bench.reads import _of_reads, _shares
from workers.api.bodies import BalanceBody
from workers.api.operations import body_version

READS = 10_000


async def test_the_reads_that_are_made_are_those_that_the_mix_says() -> None:
    """From the first tag on, whatever accounts have one: a conditional read without a tag would be a plain one."""
    load = _Load(0, [("member-000001", "a-request")])
    tag = f'W/"{body_version(BalanceBody)}.7.0"'
    load.note_tag(3, tag)
    made = list(islice(load.requests(seed=1), READS))
    kinds = Counter(request.kind for request in made)

    assert {kind: pytest.approx(share, abs=0.02) for kind, share in MIX.items()} == {
        kind: count / READS for kind, count in kinds.items()
    }
    assert kinds["balance, if changed"] == sum(f"If-None-Match: {tag}" in request.head for request in made)
    assert kinds["balance, wait_for"] == sum(f"{account(3)}/balance?wait_for=7 " in request.head for request in made)


async def test_a_read_before_the_first_tag_is_told_as_what_it_is() -> None:
    """A plain balance, and not the conditional read that was drawn."""
    made = islice(_Load(0, [("member-000001", "a-request")]).requests(seed=1), READS)

    assert {"balance", "statement", "outcome"} == {request.kind for request in made}


def test_the_figures_say_which_reads_were_made_and_how_many_were_answered_by_304() -> None:
    """Of all rounds together."""
    rounds = [[Waited("balance", 2.0, False)] * 3, [Waited("balance, if changed", 1.0, True)] * 3]
    figures = {each.name: each for each in _of_reads(rounds)}

    assert (
        {"balance": 0.5, "balance, if changed": 0.5}
        == _shares(rounds)
        == figures["reads, p50 of a read"].details["made"]
    )
    assert 50.0 == figures["reads, answered by 304"].value


def test_each_form_is_first_in_turn() -> None:
    """A form that always ran second would run on a warm machine."""
    assert ["ab", "ba", "ab"] == ["".join(order_of(number, "ab")) for number in (1, 2, 3)]
    assert ["abc", "bca", "cab"] == ["".join(order_of(number, "abc")) for number in (1, 2, 3)]
