"""Benchmarks: what a task costs, beside the raw Redis loop that does the same by hand.

`python -m benchmarks` runs them; docs/benchmarks.md says what each figure means. Ratios of
the same interleaved run and CPU per task are what counts: wall clocks depend on the machine.
"""
