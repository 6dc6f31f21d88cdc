"""The coordination store port on each back end: one adapter a file."""
