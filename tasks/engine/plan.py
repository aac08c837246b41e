"""What would run, what would not, and why: decided before anything is done.

The same decisions are shown by `invoke plan` and carried out by the executor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A stage as the plan sees it.

    `needs` are the names of the stages it depends on; `receipt` names what it writes if it passes,
    and may therefore be spared; `goal`: it was asked for by name; `builds` is the role of the
    images that it builds.
    """

    name: str
    needs: tuple[str, ...]
    receipt: str = ""
    goal: bool = False
    builds: str = ""


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs, and why; `spared`: it does not, since its receipt still stands."""

    name: str
    runs: bool
    why: str
    spared: bool = False


def decide(
    nodes: Sequence[Node],
    reason_to_run: Callable[[str], str],
    age: Callable[[str], str],
    *,
    fresh: str,
) -> dict[str, Decision]:
    """Decide for `nodes`, each after those it needs, and return the decisions by name.

    `reason_to_run` tells of a receipt why it does not stand any more (empty: it does), `age` how
    old it is. A stage whose receipt stands is spared, and so is whatever only such stages need; one
    that follows a stage that runs again, runs again too. `fresh` says why nothing is to be spared;
    it is empty if what can be is.
    """
    reasons = _reasons(nodes, reason_to_run, fresh=fresh)
    needed: dict[str, str] = {}
    decisions: dict[str, Decision] = {}
    for node in reversed(nodes):
        asked = "asked for" if node.goal else needed.get(node.name, "")
        why = reasons.get(node.name, asked)
        if not asked:
            decisions[node.name] = Decision(node.name, runs=False, why="nothing that runs needs it")
        elif node.receipt and not why:
            decisions[node.name] = Decision(
                node.name, runs=False, why=age(node.receipt), spared=True
            )
        else:
            decisions[node.name] = Decision(node.name, runs=True, why=why)
            for name in node.needs:
                needed.setdefault(name, f"{node.name} needs it")
    return {node.name: decisions[node.name] for node in nodes}


def _reasons(
    nodes: Sequence[Node], reason_to_run: Callable[[str], str], *, fresh: str
) -> dict[str, str]:
    """Return, for each stage with a receipt, why it has to run; empty if it has not."""
    reasons: dict[str, str] = {}
    stale: dict[str, str] = {}  # stages by the first stage before them, or them, that runs again
    for node in nodes:
        before = next((stale[name] for name in node.needs if name in stale), "")
        if node.receipt:
            own = fresh or reason_to_run(node.receipt)
            reasons[node.name] = own or (f"{before} runs again" if before else "")
            if reasons[node.name]:
                stale[node.name] = node.name
        elif before:
            stale[node.name] = before
    return reasons


def shown(decisions: Mapping[str, Decision]) -> list[str]:
    """Return the decisions as lines."""
    width = max((len(name) for name in decisions), default=0)
    return [
        f"{decision.name:<{width}}  {'run ' if decision.runs else 'skip'}  {decision.why}"
        for decision in decisions.values()
    ]
