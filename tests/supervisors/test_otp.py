"""Our supervisors do what Erlang/OTP's does: 2,100 scenarios recorded from it, through every shell."""

import copy
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisors.core import Core
from supervisors.intensity import Intensity
from supervisors.testing import replay

Scenario = dict[str, Any]

with gzip.open(Path(__file__).with_name("otp") / "scenarios.jsonl.gz", "rt", encoding="utf-8") as lines:
    SCENARIOS: list[Scenario] = [json.loads(line) for line in lines]
KINDS = sorted({scenario["kind"] for scenario in SCENARIOS})
IN_PROCESSES = SCENARIOS[::10]  # of every kind, each in its own processes


def of_kind(kind: str, scenarios: list[Scenario]) -> list[Scenario]:
    return [scenario for scenario in scenarios if scenario["kind"] == kind]


def differences(scenarios: list[Scenario], *how: Any) -> Iterator[str]:
    for scenario in scenarios:
        for number, (step, seen) in enumerate(zip(scenario["steps"], replay(scenario, *how)["steps"], strict=True)):
            for what in sorted({*step["expect"], *seen["expect"]}):
                told, shown = step["expect"].get(what), seen["expect"].get(what)
                if told != shown:
                    yield f"{scenario['id']} step {number} ({step['op']}), {what}:\n  OTP:  {told}\n  ours: {shown}"


def test_there_are_as_many_as_were_recorded() -> None:
    assert len(SCENARIOS) == 2_100
    assert len(IN_PROCESSES) >= 200
    assert {scenario["kind"] for scenario in IN_PROCESSES} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_core_does_what_otp_does(kind: str) -> None:
    assert not list(differences(of_kind(kind, SCENARIOS), "core"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", KINDS)
def test_tasks_do_what_otp_does(kind: str, backend: str) -> None:
    assert not list(differences(of_kind(kind, SCENARIOS), "tasks", backend))


@pytest.mark.parametrize("kind", KINDS)
def test_processes_do_what_otp_does(kind: str) -> None:
    assert not list(differences(of_kind(kind, IN_PROCESSES), "processes"))


# -- scenarios nobody recorded -------------------------------------------------------------------------------------


def mutated(scenario: Scenario, choose: Callable[[list[Any]], Any]) -> Scenario:
    """Return a scenario with other flags, children of other types, and other things that happen to them."""
    other = copy.deepcopy(scenario)
    flags, children = other["supervisor"], other["children"]
    if flags.get("strategy") != "simple_one_for_one":
        flags["strategy"] = choose(["one_for_one", "one_for_all", "rest_for_one"])
    flags["intensity"] = choose([0, 1, 2, 5])
    flags["auto_shutdown"] = choose(["never", "any_significant", "all_significant"])
    for child in children:
        child["restart"] = choose(["permanent", "transient", "temporary"])
        child["significant"] = child["restart"] != "permanent" and choose([True, False])
        child["plan"] = choose([[], ["ok"], ["ok", "error", "ok"], ["ok", "ignore"], ["ok", "raise", "error"]])
    for step in other["steps"]:
        if step["op"] == "exit":
            step["args"]["reason"] = choose(["normal", "shutdown", "{shutdown,x}", "boom", "killed"])
    return other


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scenario=st.sampled_from(SCENARIOS), data=st.data())
def test_tasks_do_what_the_core_does_in_scenarios_nobody_recorded(scenario: Scenario, data: st.DataObject) -> None:
    other = mutated(scenario, lambda choices: data.draw(st.sampled_from(choices)))
    assert replay(other, "tasks") == replay(other, "core")


# -- what these scenarios notice -----------------------------------------------------------------------------------


def plant(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    stop_all, fires, admit = Core._stop_all, Core._fires_auto_shutdown, Intensity.admit
    match bug:
        case "children are stopped in start order":
            monkeypatch.setattr(Core, "_stop_all", lambda self, slots: stop_all(self, slots[::-1]))
        case "one restart too many is tolerated":
            monkeypatch.setattr(Intensity, "admit", lambda self, past, *, now: admit(self, past[1:], now=now))
        case "the end of any child fires auto_shutdown":
            monkeypatch.setattr(Core, "_fires_auto_shutdown", lambda self, slot: fires(self, slot) or slot.is_temporary)
        case "rest_for_one restarts one":
            monkeypatch.setattr(Core, "_group", lambda self, slot: [slot])
        case "a transient child is always restarted":
            monkeypatch.setattr(Core, "_is_restarted", lambda self, slot, reason: not slot.is_temporary)
        case "what an operator stopped stays stopped":
            monkeypatch.setattr(Core, "_takes_part", lambda self, slot, failed: slot is failed or not slot.is_held)


@pytest.mark.parametrize(
    "bug",
    [
        "children are stopped in start order",
        "one restart too many is tolerated",
        "the end of any child fires auto_shutdown",
        "rest_for_one restarts one",
        "a transient child is always restarted",
        "what an operator stopped stays stopped",
    ],
)
def test_a_planted_bug_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, bug)
    assert next(differences(SCENARIOS, "core"), None) is not None


def test_a_shell_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="core, tasks, processes; got 'threads'"):
        replay(SCENARIOS[0], "threads")  # type: ignore[arg-type]
