"""Bytes that nobody should send: by name, each with a word of the refusal it must get.

Each is put on the topic of a good agent. None may reach user code, harm the worker, or keep the next good message
waiting.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

AGENT: Final = "victim"
GOOD: Final[dict[str, Any]] = {"v": 1, "task_id": "bad", "agent": AGENT, "input": 1, "reply_to": "inbox.nobody"}


def _with(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def _without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


def _raw(text: str) -> bytes:
    """Return a good envelope with this text as its input, whatever that is."""
    return (json.dumps(GOOD)[:-1].replace('"input": 1', f'"input": {text}') + "}").encode("utf-8", "surrogatepass")


def corpus() -> Iterator[tuple[str, bytes, str]]:
    """Yield (name, bytes, a word of the reason)."""
    yield from _no_json()
    yield from _too_much()
    yield from _other_schemas()
    yield from _bad_values()
    yield from _disguised()


def _no_json() -> Iterator[tuple[str, bytes, str]]:
    yield "nothing", b"", "truncated"
    yield "one zero byte", b"\0", "JSON"
    yield "zeros", b"\0" * 1_000, "JSON"
    yield "not UTF-8", b"\xff\xfe\xfd", "UTF-8"
    yield "UTF-8 cut off", b'{"v":1,"task_id":"\xc3', "UTF-8"
    yield "overlong UTF-8", b'{"v":1,"task_id":"\xc0\xaf"}', "UTF-8"
    yield "a surrogate in UTF-8", b'{"v":1,"task_id":"\xed\xa0\x80"}', "UTF-8"
    yield "UTF-16", json.dumps(GOOD).encode("utf-16"), "UTF-8"
    yield "a byte order mark", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "JSON"
    yield "a pickle", b"\x80\x04\x95\x1e\x00\x00\x00", "UTF-8"
    yield "an old pickle", b"cos\nsystem\n(S'true'\ntR.", "JSON"
    yield "YAML", b"!!python/object/apply:os.system ['true']", "JSON"
    yield "XML", b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', "JSON"
    yield "HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "JSON"
    yield "JSON cut off", json.dumps(GOOD).encode()[:-5], "truncated"
    yield "two documents", json.dumps(GOOD).encode() * 2, "JSON"
    yield "single quotes", json.dumps(GOOD).replace('"', "'").encode(), "JSON"
    yield "a trailing comma", json.dumps(GOOD).encode()[:-1] + b",}", "JSON"
    yield "a comment", b"/* hello */" + json.dumps(GOOD).encode(), "JSON"
    yield "a control character in a string", json.dumps(GOOD).replace("bad", "b\x01d").encode(), "JSON"
    yield "NaN", _raw("NaN"), "JSON"
    yield "Infinity", _raw("Infinity"), "JSON"
    yield "a hexadecimal number", _raw("0x10"), "JSON"


def _too_much() -> Iterator[tuple[str, bytes, str]]:
    yield "too large", _raw('"' + "x" * 1_100_000 + '"'), "bytes"
    yield "too large, and no JSON", b"\xff" * 2_000_000, "bytes"
    yield "deep arrays", _raw("[" * 65 + "]" * 65), "nested"
    yield "very deep arrays", _raw("[" * 100_000 + "]" * 100_000), "nested"
    yield "very deep objects", _raw('{"a":' * 50_000 + "1" + "}" * 50_000), "nested"
    yield "deep and cut off", b"[" * 500_000, "nested"
    yield "a long task id", _with(task_id="x" * 201), "must be 1 to 200"
    yield "a long batch id", _with(batch_id="x" * 1_001), "batch_id"
    yield "a long key", _with(key="x" * 1_001), "key"
    yield "a long idempotency key", _with(idempotency_key="x" * 1_001), "idempotency_key"
    yield "a long reply address", _with(reply_to="inbox." + "x" * 1_001), "reply_to"
    yield "large headers", _with(headers={"a": "x" * 20_000}), "headers"
    yield "many headers", _with(headers={f"h{number}": "x" for number in range(10_000)}), "headers"


def _other_schemas() -> Iterator[tuple[str, bytes, str]]:
    for name, text in (
        ("null", b"null"),
        ("true", b"true"),
        ("a number", b"1"),
        ("a string", b'"x"'),
        ("a list", b"[1]"),
    ):
        yield name, text, "object"
    yield "an empty object", b"{}", "v"
    for field in ("v", "task_id", "agent", "input"):
        yield f"no {field}", _without(field), field
    yield "a later version", _with(v=2), "version"
    yield "version 0", _with(v=0), "version"
    yield "a negative version", _with(v=-1), "version"
    yield "a version as text", _with(v="1"), "int"
    yield "a version as a float", _with(v=1.5), "int"
    yield "a huge version", _with(v=10**30), "v"
    yield "a task id that is a number", _with(task_id=1), "str"
    yield "a task id that is null", _with(task_id=None), "str"
    yield "a task id that is a list", _with(task_id=["a"]), "str"
    yield "headers that are a list", _with(headers=[1]), "object"
    yield "a header that is a number", _with(headers={"a": 1}), "str"
    yield "a timeout as text", _with(timeout="1"), "float"
    yield "a priority as a float", _with(priority=1.5), "int"


def _bad_values() -> Iterator[tuple[str, bytes, str]]:
    yield "an empty task id", _with(task_id=""), "must be 1 to 200"
    yield "a task id with a newline", _with(task_id="a\nb"), "must be 1 to 200"
    yield "a task id with a zero byte", _with(task_id="a\0b"), "must be 1 to 200"
    yield "a task id with spaces", _with(task_id="a b"), "must be 1 to 200"
    yield "a task id with a wildcard", _with(task_id="*"), "must be 1 to 200"
    yield "a task id that climbs", _with(task_id="../../etc/passwd"), "must be 1 to 200"
    yield "a task id in another script", _with(task_id="tâche"), "must be 1 to 200"
    yield "another agent's task", _with(agent="somebody_else"), "addressed"
    yield "an agent with a wildcard", _with(agent="*"), "addressed"
    yield "an empty agent", _with(agent=""), "addressed"
    yield "a negative timeout", _with(timeout=-1), "timeout"
    yield "an endless timeout", _with().replace(b"}", b',"timeout":1e300}'), "timeout"
    yield "a negative deadline", _with(deadline=-1), "deadline"
    yield "a deadline beyond all time", _with(deadline=1e18), "deadline"
    yield "a sending time beyond all time", _with(sent_at=1e18), "sent_at"
    yield "a negative depth", _with(depth=-1), "depth"
    yield "too deep a family", _with(depth=17), "depth"
    yield "a reply into a mailbox", _with(reply_to=f"{AGENT}.tasks"), "reply_to"
    yield "a reply into the dead letters", _with(reply_to=f"{AGENT}.dead"), "reply_to"
    yield "a reply into our own keys", _with(reply_to="murmur:task:x"), "reply_to"
    whole = {"key": "stowed:x:0", "size": 1, "digest": "0" * 64}
    yield "a reference to our own keys", _with(stowed={**whole, "key": "presence:w"}), "stowed"
    yield "a reference with a wildcard", _with(stowed={**whole, "key": "stowed:*"}), "stowed"
    yield "a reference to more than may be", _with(stowed={**whole, "size": 10**12}), "at most 10,485,760"
    yield "a reference to less than nothing", _with(stowed={**whole, "size": -1}), "at most 10,485,760"
    yield "a reference without a digest", _with(stowed={**whole, "digest": "x"}), "stowed"
    yield "a reference that is a text", _with(stowed="stowed:x:0"), "object"
    yield "an empty reply address", _with(reply_to=""), "reply_to"


def _disguised() -> Iterator[tuple[str, bytes, str]]:
    yield "a result", json.dumps({"v": 1, "task_id": "bad", "agent": AGENT, "success": True}).encode(), "input"
    yield "a dead letter", json.dumps({"reason": "x", "dead_at": 1, "agent": AGENT}).encode(), "v"
    yield "Celery's", json.dumps([[1], {}, {"callbacks": None}]).encode(), "object"
    yield "the last of two ids", b'{"task_id":"good",' + _with(task_id="a b")[1:], "must be 1 to 200"
