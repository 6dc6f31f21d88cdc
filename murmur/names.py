"""Names of agents and of what stands on the broker: one function each, used by everybody.

Publishers, workers, dead-letter tools and other languages must agree on every name, so
no other module builds one. How a broker spells them physically is told in docs/wire.md.
"""

import re
from typing import Final

from attrs import frozen

from murmur.errors import BadAgentName

_AGENT: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_-]{0,63}\Z")
_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(class_name: str) -> str:
    """Return `WordStats` as `word_stats` and `HTTPFetcher` as `http_fetcher`."""
    return _HUMPS.sub("_", class_name).lower()


def check_agent_name(name: object, *, where: str) -> str:
    """Return `name` if an agent may bear it, else raise `BadAgentName` (a `TypeError`) telling `where` it came from."""
    if not isinstance(name, str) or not _AGENT.match(name):
        raise BadAgentName(name=repr(name), where=where)
    return name


@frozen
class Topics:
    """The topics of one namespace; an empty namespace puts nothing before them."""

    namespace: str = ""

    def __attrs_post_init__(self) -> None:
        if not _NAMESPACE.match(self.namespace):
            raise ValueError(
                f"namespace must be up to 63 letters, digits, '_' or '-', got {self.namespace!r}; topics begin with it"
            )

    @property
    def prefix(self) -> str:
        """What stands before every topic: `"prod."`, or nothing."""
        return f"{self.namespace}." if self.namespace else ""

    def tasks(self, agent: str) -> str:
        """Where TaskMessages of this agent, or of one shard of it (`cart.3`), wait."""
        return f"{self.prefix}{agent}.tasks"

    def results(self, agent: str) -> str:
        """The logical topic of this agent's ResultMessages; `reply_to` addresses one publisher within it."""
        return f"{self.prefix}{agent}.results"

    def dead(self, agent: str) -> str:
        """Where this agent's dead letters are kept, those of all its shards."""
        return f"{self.prefix}{agent.partition('.')[0]}.dead"

    def inbox(self, runtime_id: str) -> str:
        """The reply inbox of one publisher: what it writes into `reply_to`."""
        return f"{self.prefix}inbox.{runtime_id}"

    def is_inbox(self, topic: str) -> bool:
        """Whether a topic is a publisher's inbox in this namespace: nothing else may be written into `reply_to`."""
        return topic.startswith(f"{self.prefix}inbox.")

    def control(self, topic: str) -> str:
        """The full name of a topic of the control plane, such as `murmur.beats`."""
        return f"{self.prefix}{topic}"

    def agent_of(self, topic: str) -> str:
        """Return the agent of a `tasks`, `results` or `dead` topic of this namespace."""
        return topic.removeprefix(self.prefix).partition(".")[0]

    def mailbox_of(self, topic: str) -> str:
        """Return what stands before `.tasks` in a topic: the agent, with the shard if it is one's: `cart`, `cart.3`."""
        return topic.removeprefix(self.prefix).rpartition(".")[0]

    def is_shard(self, topic: str) -> bool:
        """Whether a topic is the mailbox of one shard of an agent."""
        return "." in self.mailbox_of(topic)
