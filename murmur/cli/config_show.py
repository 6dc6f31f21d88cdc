"""`murmur config show [--origin]`: what holds here, and who said so."""

import os

import click

from murmur.cli.config import KEYS, Setting, file_settings


@click.group()
def command() -> None:
    """Show settings and where each comes from."""


@command.command()
@click.option("--origin", is_flag=True, help="Also show where each setting comes from.")
def show(*, origin: bool) -> None:
    """Print the settings of file and environment; flags come on top of them."""
    found = {setting.name: setting for setting in file_settings()}
    for name in KEYS:
        value = os.environ.get(f"MURMUR_{name.upper()}")
        if value is not None:
            found[name] = Setting(name, value, "environment")
    for name, setting in sorted(found.items()):
        shown = _redacted(name, setting.value)
        click.echo(f"{name} = {shown}" + (f"    ({setting.origin})" if origin else ""))


def _redacted(name: str, value: object) -> str:
    if name in ("broker", "store") and isinstance(value, str):
        from murmur.broker_url import BrokerURL  # noqa: PLC0415  only where a URL is shown

        return str(BrokerURL.parse(value))
    return str(value)
