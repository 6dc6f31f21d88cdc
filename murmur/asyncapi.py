"""What goes over a broker, as an AsyncAPI 3 document: made of the shipped schemas, and of agents' types where given.

https://www.asyncapi.com/docs/reference/specification/v3.0.0. The document is written from a worker's side: it receives
tasks and commands, and sends results, dead letters, beats and answers. docs/wire.md says the same in words.
"""

import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.resources import files
from typing import Any, Final

import msgspec

from murmur.beats import ANSWERS, BEATS, COMMANDS
from murmur.names import Topics
from murmur.registry import AgentEntry

_ANY: Final = "{agent}"
_BROADCAST: Final = "Broadcast, never kept. In a database N of Redis but 0 the channel's name ends in @N."
_DEFINED: Final = "#/$defs/"
_MESSAGES: Final = {
    "task": "TaskMessage",
    "result": "ResultMessage",
    "dead_letter": "DeadLetter",
    "beat": "Beat",
    "command": "Command",
    "answer": "Answer",
}


def document(agents: Iterable[AgentEntry] = (), *, topics: Topics) -> dict[str, Any]:
    """Return the document; without agents, one for whatever agent there is."""
    made = _Document(topics)
    found = list(agents)
    for entry in found:
        made.add_agent(entry.name, entry)
    if not found:
        made.add_agent(_ANY, None)
    made.add_control()
    return made.whole()


class _Document:
    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._channels: dict[str, Any] = {}
        self._operations: dict[str, Any] = {}
        self._schemas: dict[str, Any] = {}
        for file in _MESSAGES:
            schema = json.loads(files("murmur").joinpath("schemas", f"{file}.json").read_text(encoding="utf-8"))
            self._schemas |= _moved(schema["$defs"])
        self._messages: dict[str, Any] = {
            name: _message(name, {"$ref": f"#/components/schemas/{name}"}) for name in _MESSAGES.values()
        }

    def add_agent(self, name: str, entry: AgentEntry | None) -> None:
        """Describe an agent's mailbox, results and dead letters."""
        label = "" if entry is None else f"{name}."
        task, result = self._typed(label, entry)
        topic = self._topics
        parameters = {} if entry is not None else {"agent": {"description": "The name of an agent."}}
        self._channel(f"{label}tasks", f"{topic.prefix}{name}.tasks", task, parameters)
        self._channel(f"{label}dead", f"{topic.prefix}{name}.dead", "DeadLetter", parameters)
        inbox = {"publisher": {"description": "What a publisher calls itself; it writes the address into `reply_to`."}}
        self._channel(f"{label}results", f"{topic.prefix}inbox.{{publisher}}", result, inbox)
        work = self._operation(f"{label}work", "receive", f"{label}tasks", task)
        work["reply"] = {
            "address": {"location": "$message.payload#/reply_to"},
            "channel": _channel_ref(f"{label}results"),
            "messages": [_message_ref(f"{label}results", result)],
        }
        self._operation(f"{label}bury", "send", f"{label}dead", "DeadLetter")

    def add_control(self) -> None:
        """Describe the control plane."""
        for name, topic, message, action in (
            ("beats", BEATS, "Beat", "send"),
            ("commands", COMMANDS, "Command", "receive"),
            ("answers", ANSWERS, "Answer", "send"),
        ):
            self._channel(name, self._topics.control(topic), message, {})
            self._channels[name]["description"] = _BROADCAST
            self._operation(name, action, name, message)

    def whole(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "asyncapi": "3.0.0",
            "info": {
                "title": "murmur",
                "version": metadata.version("murmur-runtime"),
                "description": "Tasks for supervised agents, their results and dead letters, and how workers are.",
            },
            "defaultContentType": "application/json",
            "channels": self._channels,
            "operations": self._operations,
            "components": {"messages": self._messages, "schemas": self._schemas},
        }

    def _typed(self, label: str, entry: AgentEntry | None) -> tuple[str, str]:
        """Add the messages of one agent, with its own input and output; return their names."""
        if entry is None:
            return "TaskMessage", "ResultMessage"
        for name, of, field, codec in (
            (f"{label}task", "TaskMessage", "input", entry.input),
            (f"{label}result", "ResultMessage", "output", entry.output),
        ):
            declared, defined = _schema_of(codec.declared, codec.type_name)
            self._schemas |= _moved(defined, label)  # a user may call a class Answer, too
            own = {"properties": {field: _rooted(declared, label)}}
            whole = {"allOf": [{"$ref": f"#/components/schemas/{of}"}, own]}
            self._messages[name] = _message(name, whole)
        return f"{label}task", f"{label}result"

    def _channel(self, name: str, address: str, message: str, parameters: Mapping[str, Any]) -> None:
        channel: dict[str, Any] = {
            "address": address,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        }
        self._channels[name] = {**channel, "parameters": parameters} if parameters else channel

    def _operation(self, name: str, action: str, channel: str, message: str) -> dict[str, Any]:
        made = {"action": action, "channel": _channel_ref(channel), "messages": [_message_ref(channel, message)]}
        self._operations[name] = made
        return made


def _message(name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "contentType": "application/json", "payload": payload}


def _channel_ref(channel: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}"}


def _message_ref(channel: str, message: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}/messages/{message}"}


def _schema_of(declared: Any, shown: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON Schema of a user's type, and what it refers to; what has none is any value of that name."""
    try:
        (schema,), defined = msgspec.json.schema_components([declared], ref_template="#/$defs/{name}")
    except (TypeError, ValueError, NotImplementedError):
        return {"description": shown}, {}
    return schema, defined


def _moved(defined: Mapping[str, Any], label: str = "") -> dict[str, Any]:
    return {f"{label}{name}": _rooted(schema, label) for name, schema in defined.items()}


def _rooted(schema: Any, label: str) -> Any:
    """Return a schema whose references lead to the document's components."""
    if isinstance(schema, list):
        return [_rooted(value, label) for value in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#/components/schemas/{label}{value.removeprefix(_DEFINED)}" if key == "$ref" else _rooted(value, label)
        for key, value in schema.items()
    }
