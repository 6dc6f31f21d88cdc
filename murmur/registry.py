"""Which agents a runtime or worker knows by name, and what each takes and returns.

There is no global registry: each runtime has one, and the workers that are given it.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from murmur.actor import Actor, Remote, signature_of
from murmur.codec import PayloadCodec, codec_for
from murmur.errors import BadSetting, UnknownAgent

AnyActor = type[Actor[Any, Any]]
AgentRef = AnyActor | str | Remote


@frozen
class AgentEntry:
    """One agent as publishers and workers see it; `actor` is None where it is served elsewhere."""

    name: str
    input: PayloadCodec
    output: PayloadCodec
    actor: AnyActor | None


@frozen
class Registry:
    """Names to actor classes."""

    _actors: dict[str, AnyActor] = field(factory=dict)

    def register(self, actor: AnyActor, *, name: str | None = None) -> None:
        """Make a class known under its name. Raises `TypeError` for what is no actor class or cannot be sent."""
        entry_of(actor)
        self._actors[name or actor.name] = actor

    @property
    def names(self) -> tuple[str, ...]:
        """The known names, sorted."""
        return tuple(sorted(self._actors))

    def resolve(self, agent: AgentRef) -> AgentEntry:
        """Return the agent meant by a class, a registered name or a `Remote`. Raises `UnknownAgent`, `TypeError`."""
        if isinstance(agent, Remote):
            known = self._actors.get(agent.name)
            return entry_of(known) if known else AgentEntry(agent.name, codec_for(Any), codec_for(Any), None)
        if isinstance(agent, str):
            found = self._actors.get(agent)
            if found is None:
                raise UnknownAgent(name=agent, known=self.names)
            return AgentEntry(agent, *_codecs(found), found)
        return entry_of(agent)


def entry_of(actor: object) -> AgentEntry:
    """Return the entry of an actor class. Raises `TypeError` for anything else."""
    if not (isinstance(actor, type) and issubclass(actor, Actor)) or actor is Actor:
        raise TypeError(f"expected a class derived from Actor, a registered name or Remote(name), got {actor!r}")
    return _described(actor)  # type: ignore[arg-type]  # mypy reads the hash of the instances, not of the class


def agents_by_name(
    agents: Iterable[AnyActor | str] | Mapping[str, AnyActor], registry: Registry
) -> dict[str, AnyActor]:
    """Return the classes a worker is to serve, by name. Raises `BadSetting`, `UnknownAgent`, `TypeError`."""
    if isinstance(agents, str) or (isinstance(agents, type) and issubclass(agents, Actor)):
        agents = (agents,)
    if isinstance(agents, Mapping):
        found = {name: entry_of(actor).actor for name, actor in agents.items()}
    else:
        entries = [registry.resolve(agent) for agent in agents]
        found = {entry.name: entry.actor for entry in entries}
    if not found:
        raise BadSetting(name="agents", value="none", expected="at least one actor class or registered name")
    served = {name: actor for name, actor in found.items() if actor is not None}
    if len(served) < len(found):
        raise BadSetting(
            name="agents", value=", ".join(found.keys() - served), expected="actor classes, not Remote names"
        )
    return served


@functools.lru_cache(maxsize=256)
def _described(actor: AnyActor) -> AgentEntry:
    return AgentEntry(actor.name, *_codecs(actor), actor)


def _codecs(actor: AnyActor) -> tuple[PayloadCodec, PayloadCodec]:
    signature = signature_of(actor)
    return codec_for(signature.input), codec_for(signature.output)
