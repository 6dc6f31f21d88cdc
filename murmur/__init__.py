"""Supervised actors for fleets of LLM agents, on the broker you already run."""
