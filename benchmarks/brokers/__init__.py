"""One module a broker: its server, and the fan-out written by hand on its client.

Each offers `SERVER` (a row's name), `server()` (a context manager of something with `url` and
`pid`), and what `benchmarks.side.System` asks of a yardstick: `publishing` and `working`.
"""
