"""Settings from a file, and where every setting comes from.

`murmur.toml` in the working folder, or `[tool.murmur]` of pyproject.toml. Keys are option
names with `_` or `-`; a table named like a command (`[worker.start]`) is for that command
alone, everything else for all.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

KEYS: Final = (
    *(
        "agents",
        "app",
        "all_from",
        "broker",
        "store",
        "namespace",
        "concurrency",
        "prefetch",
        "processes",
        "consumer_id",
    ),
    *("consumer_id", "reclaim_min_idle_ms", "drain", "heartbeat", "max_concurrency", "timeout", "deadline", "json"),
)
_PARAMETERS: Final = {"app": "apps", "all_from": "folders", "json": "as_json"}  # where a parameter is named otherwise
_LEAVES: Final = {
    **dict.fromkeys(("run", "gather", "agents", "asyncapi", "top", "tree"), ()),
    "worker": ("start", "list", "drain", "stop"),
    "dead": ("list", "show"),
}


class Setting(NamedTuple):
    """One setting with its origin: a file, `environment` or `default`."""

    name: str
    value: object
    origin: str


def file_settings(folder: Path | None = None) -> list[Setting]:
    """Return what the working folder's file says. Raises `BadSetting` for a file or key that cannot be read."""
    folder = folder or Path.cwd()
    for path in (folder / "murmur.toml", folder / "pyproject.toml"):
        if not path.is_file():
            continue
        import tomllib  # noqa: PLC0415  most folders have no such file

        try:
            document = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise _bad(path.name, str(error), "a TOML file") from None
        table = document if path.name == "murmur.toml" else document.get("tool", {}).get("murmur")
        if table is not None:
            return [_setting(path.name, key, value) for key, value in table.items()]
    return []


def defaults() -> dict[str, Any]:
    """Return the file's settings as click's default map."""
    shared = {_PARAMETERS.get(s.name, s.name): s.value for s in file_settings()}
    commands: dict[str, Any] = {}
    for command, leaves in _LEAVES.items():
        commands[command] = {leaf: dict(shared) for leaf in leaves} if leaves else dict(shared)
    return commands


def _setting(origin: str, key: str, value: object) -> Setting:
    name = key.replace("-", "_")
    if name not in KEYS:
        raise _bad(f"{key} in {origin}", repr(value), f"one of {', '.join(KEYS)}")
    if name in ("agents",) and isinstance(value, list):
        value = ",".join(map(str, value))
    if name in ("app", "all_from") and isinstance(value, str):
        value = [value]
    return Setting(name, value, origin)


def _bad(name: str, value: str, expected: str) -> Exception:
    from murmur.errors import BadSetting  # noqa: PLC0415  only a bad file needs it

    return BadSetting(name=name, value=value, expected=expected)
