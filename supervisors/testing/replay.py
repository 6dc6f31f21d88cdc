"""Plays a scenario of the OTP format through a shell, and writes down what was seen."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Literal, TypeVar

import anyio
from anyio.abc import TaskGroup

from supervisors.errors import SpecError
from supervisors.inputs import DeleteChild, Look, Request, RestartChild, StartChild, StartDynamic, TerminateChild
from supervisors.testing.core_player import CorePlayer
from supervisors.testing.otp import (
    REASONS,
    Json,
    Reader,
    by_label,
    children_json,
    counts_json,
    reason_name,
    refusal,
    sorted_stops,
    spec_json,
)
from supervisors.testing.players import TOP, Pending, Player, Stage
from supervisors.testing.task_player import TaskPlayer
from supervisors.views import ChildInfo, Snapshot

T = TypeVar("T")
_SHELLS: Final = ("core", "tasks", "processes")


def replay(
    scenario: dict[str, Any],
    shell: Literal["core", "tasks", "processes"] = "core",
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> dict[str, Any]:
    """Play a scenario; return the same one with every `expect` replaced by what was observed.

    Where the scenario says `"active": null`, which is "do not compare", the observation says so too. Call it
    outside of any event loop. Times are virtual but for shell="processes".
    """
    if shell not in _SHELLS:
        raise ValueError(f"shell must be one of {', '.join(_SHELLS)}; got {shell!r}")
    if shell == "core":
        return _run_without_loop(_Script(scenario, CorePlayer).play())
    player: Callable[[Stage, TaskGroup], Player] = TaskPlayer
    if shell == "processes":
        from supervisors.testing.process_player import ProcessPlayer  # noqa: PLC0415  loads multiprocess

        player = ProcessPlayer
    return anyio.run(_on_loop, scenario, player, backend=backend)


async def _on_loop(scenario: dict[str, Any], player: Callable[[Stage, TaskGroup], Player]) -> dict[str, Any]:
    async with anyio.create_task_group() as tasks:
        seen = await _Script(scenario, lambda stage: player(stage, tasks)).play()
    return seen  # noqa: RET504  a task group may swallow what is raised: mypy wants to see the return


def _run_without_loop(play: Coroutine[Any, Any, T]) -> T:
    """Run what never really waits."""
    try:
        play.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("the core player waited for something")


class _Script:
    """One scenario, and the player it is played on."""

    def __init__(self, scenario: dict[str, Any], make_player: Callable[[Stage], Player]) -> None:
        self._scenario = scenario
        self._stage = Stage()
        self._player = make_player(self._stage)
        self._reader = Reader()
        self._is_started = False

    async def play(self) -> dict[str, Any]:
        """Play all steps."""
        steps = [{**step, "expect": await self._step(step)} for step in self._scenario["steps"]]
        self._player.close()
        await self._player.settle()
        return {**self._scenario, "steps": steps}

    async def _step(self, step: Json) -> Json:
        op, args, expected = step["op"], step["args"], step.get("expect", {})
        self._stage.log.clear()
        during: list[Callable[[], Json]] = []
        if "while_restarting" in args:
            meanwhile = expected.get("while_restarting") or {}
            self._stage.on_failing = lambda: self._interject(args["while_restarting"], meanwhile, during)
        if op == "start_link":
            observed: Json = {"result": await self._start()}
        else:
            answer = self._post(op, args)
            await self._player.settle()
            observed = answer()
        self._stage.on_failing = None
        observed |= self._seen(self._player.snapshot(), expected.get("counts"))
        observed["events"] = sorted_stops(self._stage.log, self._stage.labels.values())
        observed["supervisor"] = self._life()
        if during:
            observed["while_restarting"] = during[0]()
        return observed

    async def _start(self) -> str:
        top = self._reader.supervisor(self._scenario["supervisor"], self._scenario["children"])
        try:
            self._is_started = await self._player.start(top)
        except Exception as error:  # noqa: BLE001 - every refusal has its tag
            return refusal(error, is_start=True)
        return "ok" if self._is_started else "ignore"

    def _post(self, op: str, args: Json) -> Callable[[], Json]:
        """Do what a step says; what is returned gives the answer when all is quiet."""
        if op == "exit":
            puppet = self._stage.puppets.get(args["child"])
            if puppet is None or not puppet.is_up:
                return lambda: {"result": "nochild"}
            puppet.end(REASONS[args["reason"]]())
            return lambda: {"result": "ok"}
        if op == "shutdown":
            self._player.close()
            return lambda: {"result": "ok"}
        path = self._path(args.get("supervisor"))
        if path is None:
            return lambda: {"result": "noproc"}
        try:
            pending = self._player.post(path, self._request(op, args, path))
        except SpecError as error:  # OTP refuses it in the supervisor, ours before it gets there
            result = refusal(error)
            return lambda: {"result": result}
        return lambda: _answer(pending)

    def _request(self, op: str, args: Json, path: str) -> "Request | str":
        child = args["child"]
        if op == "start_child" and isinstance(child, str):
            return StartDynamic((self._reader.part({**args, "id": child}),))
        if op == "start_child":
            return StartChild(self._reader.child(child, self._reader.part(child)))
        key = self._key(child, path)
        if op == "get_childspec":
            return key
        kinds: dict[str, type[TerminateChild | RestartChild | DeleteChild]] = {
            "terminate_child": TerminateChild,
            "restart_child": RestartChild,
            "delete_child": DeleteChild,
        }
        return kinds[op](key)

    def _interject(self, step: Json, expected: Json, during: list[Callable[[], Json]]) -> Callable[[], None]:
        """Something arrives while a start is failing: post it, and when it is there a look at what is to be seen."""
        answer = self._post(step["op"], step["args"])

        def look() -> None:
            seen = self._player.post(TOP, Look())
            during.append(lambda: answer() | self._looked(seen, expected))

        return look

    def _looked(self, look: Pending, expected: Json) -> Json:
        return {} if look.snapshot is None else self._seen(look.snapshot, expected.get("counts"))

    def _path(self, supervisor: str | None) -> str | None:
        """The path of the supervisor addressed, or None if there is none up."""
        top = self._player.snapshot()
        if top is None:
            return None
        return TOP if supervisor is None else _find(top.children, supervisor, TOP)

    def _key(self, child: str, path: str) -> str:
        """The id of a child, by its label if it is a dynamic one."""
        labelled = (
            known for known, label in self._stage.labels.items() if label == child and known.startswith(f"{path}/")
        )
        return max(labelled, key=by_label, default=child).rpartition("/")[2]

    def _seen(self, snapshot: Snapshot | None, expected: Json) -> Json:
        if snapshot is None:
            return {"children": [], "counts": None}
        counts = counts_json(snapshot.counts)
        if expected is not None and expected.get("active", 0) is None:
            counts["active"] = None  # "do not compare"
        return {"children": children_json(snapshot.children, self._stage.labels, TOP), "counts": counts}

    def _life(self) -> str:
        if not self._is_started:
            return "not_started"
        ended = self._player.ended
        return "alive" if ended is None else f"dead:{reason_name(ended)}"


def _find(children: Iterable[ChildInfo], supervisor: str, path: str) -> str | None:
    for child in children:
        here = f"{path}/{child.id}"
        if child.children is None:
            continue
        found = here if child.id == supervisor else _find(child.children, supervisor, here)
        if found is not None:
            return found
    return None


def _answer(pending: Pending) -> Json:
    if pending.error is not None:
        return {"result": refusal(pending.error)}
    if pending.spec is not None:
        return {"result": "ok", "spec": spec_json(pending.spec)}
    if not pending.is_start:
        return {"result": "ok"}
    if pending.ref is None:
        return {"result": "ok:undefined"}
    return {"result": "ok:info" if pending.ref.info == "info" else "ok"}
