"""A module that cannot be imported, for tests of what then happens."""

raise SystemExit("this module ends whoever imports it")
