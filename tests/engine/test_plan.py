"""What runs and what is spared: each rule beside the case in which it does not apply."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engine.plan import Decision, Node, decide, shown


def plan(
    nodes: Sequence[Node], stale: Mapping[str, str] | None = None, *, fresh: str = ""
) -> dict[str, Decision]:
    """Decide; `stale` are the receipts that do not stand any more, each with the reason."""
    reasons = stale or {}
    return decide(
        nodes,
        lambda receipt: reasons.get(receipt, ""),
        lambda receipt: f"{receipt} is old",
        fresh=fresh,
    )


def told(decisions: Mapping[str, Decision]) -> dict[str, str]:
    marks = {(True, False): "run", (False, False): "skip", (False, True): "spared"}
    return {name: f"{marks[d.runs, d.spared]}: {d.why}" for name, d in decisions.items()}


# As in the real tree, smaller: what is built, tests of it, and a goal that only collects.
BASE = Node("base", ())
UNIT = Node("unit", ("base",), "unit")
WHEELS = Node("wheels", ("base",), "wheels")
IMAGE = Node("image", ("wheels",), "image")
START = Node("start", ("image",))
ACCEPT = Node("accept", ("start",), "acceptance")
ALL = Node("all", ("unit", "accept"), goal=True)
TREE = (BASE, UNIT, WHEELS, IMAGE, START, ACCEPT, ALL)


def test_whose_receipts_stand_is_spared_and_so_is_what_only_they_need() -> None:
    assert told(plan(TREE)) == {
        "base": "skip: nothing that runs needs it",
        "unit": "spared: unit is old",
        "wheels": "skip: nothing that runs needs it",
        "image": "skip: nothing that runs needs it",
        "start": "skip: nothing that runs needs it",
        "accept": "spared: acceptance is old",
        "all": "run: asked for",
    }


def test_whose_receipt_does_not_stand_runs_and_so_does_what_it_needs() -> None:
    assert told(plan(TREE, {"unit": "app/todo.py changed"})) == {
        "base": "run: unit needs it",
        "unit": "run: app/todo.py changed",
        "wheels": "skip: nothing that runs needs it",
        "image": "skip: nothing that runs needs it",
        "start": "skip: nothing that runs needs it",
        "accept": "spared: acceptance is old",
        "all": "run: asked for",
    }


def test_what_follows_a_stage_that_runs_again_runs_again() -> None:
    assert told(plan(TREE, {"wheels": "a wheel is gone"})) == {
        "base": "run: wheels needs it",
        "unit": "spared: unit is old",
        "wheels": "run: a wheel is gone",
        "image": "run: wheels runs again",
        "start": "run: accept needs it",
        "accept": "run: image runs again",
        "all": "run: asked for",
    }


def test_what_comes_before_a_stage_that_runs_again_does_not_run_again() -> None:
    assert told(plan(TREE, {"acceptance": "a spec changed"})) == {
        "base": "skip: nothing that runs needs it",
        "unit": "spared: unit is old",
        "wheels": "skip: nothing that runs needs it",
        "image": "spared: image is old",
        "start": "run: accept needs it",
        "accept": "run: a spec changed",
        "all": "run: asked for",
    }


def test_a_stage_that_runs_again_is_told_of_through_those_without_a_receipt() -> None:
    nodes = (
        Node("first", (), "first"),
        Node("second", ("first",)),
        Node("third", ("second",)),
        Node("last", ("third",), "last", goal=True),
    )
    assert plan(nodes, {"first": "it changed"})["last"].why == "first runs again"
    assert plan(nodes)["last"].spared


def test_a_reason_of_its_own_is_told_before_that_of_an_earlier_stage() -> None:
    decisions = plan(TREE, {"wheels": "a wheel is gone", "acceptance": "a spec changed"})
    assert decisions["accept"].why == "a spec changed"
    assert decisions["image"].why == "wheels runs again"


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_after_one_that_stands_and_one_that_does_not_it_runs(order: tuple[str, ...]) -> None:
    nodes = (Node("one", (), "one"), Node("two", (), "two"), Node("last", order, "last", goal=True))
    assert plan(nodes, {"two": "it changed"})["last"].why == "two runs again"
    assert not plan(nodes, {"two": "it changed"})["one"].runs


def test_a_goal_without_a_receipt_always_runs() -> None:
    nodes = (WHEELS, IMAGE, Node("start", ("image",), goal=True))
    assert told(plan(nodes)) == {
        "wheels": "skip: nothing that runs needs it",
        "image": "spared: image is old",
        "start": "run: asked for",
    }


def test_a_goal_with_a_receipt_is_spared_like_any_other() -> None:
    decisions = plan((WHEELS, Node("image", ("wheels",), "image", goal=True)))
    assert decisions["image"] == Decision("image", runs=False, why="image is old", spared=True)


def test_a_goal_that_others_need_too_was_asked_for() -> None:
    nodes = (Node("base", (), goal=True), Node("wheels", ("base",), "wheels", goal=True))
    assert plan(nodes, {"wheels": "a wheel is gone"})["base"].why == "asked for"
    assert plan(nodes)["base"].runs


def test_what_only_a_skipped_stage_needs_is_not_needed() -> None:
    nodes = (Node("deep", ()), Node("deeper", ("deep",)), Node("goal", ("deeper",), "r", goal=True))
    assert told(plan(nodes)) == {
        "deep": "skip: nothing that runs needs it",
        "deeper": "skip: nothing that runs needs it",
        "goal": "spared: r is old",
    }


def test_what_two_stages_need_is_needed_while_one_of_them_runs() -> None:
    nodes = (BASE, UNIT, WHEELS, Node("both", ("unit", "wheels"), goal=True))
    assert plan(nodes, {"unit": "it changed"})["base"].why == "unit needs it"
    assert plan(nodes, {"wheels": "it changed"})["base"].why == "wheels needs it"
    assert not plan(nodes)["base"].runs


def test_fresh_spares_nothing_and_says_so() -> None:
    decisions = plan(TREE, {"unit": "app/todo.py changed"}, fresh="FRESH is on")
    assert all(decision.runs and not decision.spared for decision in decisions.values())
    assert told(decisions)["unit"] == "run: FRESH is on"
    assert told(decisions)["accept"] == "run: FRESH is on"
    assert told(decisions)["start"] == "run: accept needs it"


def test_what_is_spared_is_not_asked_twice_nor_is_its_age_told_if_it_runs() -> None:
    asked: list[str] = []
    aged: list[str] = []

    def reason(receipt: str) -> str:
        asked.append(receipt)
        return "it changed" if receipt == "acceptance" else ""

    def age(receipt: str) -> str:
        aged.append(receipt)
        return "old"

    decide(TREE, reason, age, fresh="")
    assert asked == ["unit", "wheels", "image", "acceptance"]
    assert sorted(aged) == ["image", "unit"]


def test_fresh_does_not_even_look_at_the_receipts() -> None:
    def look(receipt: str) -> str:
        raise AssertionError(receipt)

    decisions = decide(TREE, look, look, fresh="FRESH is on")
    assert all(decision.runs for decision in decisions.values())


def test_decisions_are_in_the_order_of_the_stages() -> None:
    assert list(plan(TREE, {"image": "it changed"})) == [node.name for node in TREE]


def test_no_stages_no_decisions() -> None:
    assert plan(()) == {}
    assert shown({}) == []


def test_shown_is_a_line_each_in_columns() -> None:
    lines = shown(plan((BASE, WHEELS, Node("start", ("wheels",), goal=True)), {"wheels": "gone"}))
    assert lines == [
        "base    run   wheels needs it",
        "wheels  run   gone",
        "start   run   asked for",
    ]
    assert shown(plan((WHEELS, Node("start", ("wheels",), goal=True)))) == [
        "wheels  skip  wheels is old",
        "start   run   asked for",
    ]


# --- whatever the tree ---------------------------------------------------------------------------


@st.composite
def trees(draw: st.DrawFn) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 8))):
        needs = draw(st.sets(st.sampled_from([n.name for n in nodes]))) if nodes else set()
        receipt = f"receipt-{number}" if draw(st.booleans()) else ""
        nodes.append(Node(f"stage-{number}", tuple(sorted(needs)), receipt, draw(st.booleans())))
    return tuple(nodes)


@given(trees(), st.data())
def test_nothing_is_spared_that_does_not_stand_or_comes_after_what_runs_again(
    nodes: tuple[Node, ...], data: st.DataObject
) -> None:
    receipts = [node.receipt for node in nodes if node.receipt]
    stale = data.draw(st.sets(st.sampled_from(receipts))) if receipts else set()
    decisions = plan(nodes, dict.fromkeys(stale, "it changed"))
    before: dict[str, set[str]] = {}
    for node in nodes:
        before[node.name] = set(node.needs).union(*(before[name] for name in node.needs))
        stand = all(
            one.receipt not in stale
            for one in nodes
            if one.name == node.name or one.name in before[node.name]
        )
        assert not decisions[node.name].spared or (node.receipt and stand)
        if node.goal and not decisions[node.name].runs:
            assert decisions[node.name].spared
        # Whatever runs finds the results of all that it needs: made now, or spared.
        if decisions[node.name].runs:
            for name in node.needs:
                assert decisions[name].runs or decisions[name].spared
        assert decisions[node.name].why


@given(trees(), st.data())
def test_one_more_change_never_makes_less_run(nodes: tuple[Node, ...], data: st.DataObject) -> None:
    receipts = [node.receipt for node in nodes if node.receipt]
    more = data.draw(st.lists(st.sampled_from(receipts), unique=True)) if receipts else []
    ran: set[str] = set()
    for count, _ in enumerate(itertools.chain(more, [None])):
        decisions = plan(nodes, dict.fromkeys(more[:count], "it changed"))
        now = {name for name, decision in decisions.items() if decision.runs}
        assert ran <= now
        ran = now
