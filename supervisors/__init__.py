"""Erlang/OTP supervision for Python: anyio tasks and operating-system processes."""
