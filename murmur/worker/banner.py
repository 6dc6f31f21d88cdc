"""What a worker prints when it starts: where it listens, to whom, and with how much."""

from collections.abc import Sequence

from murmur.doctor import Finding, Severity
from murmur.names import Topics


def banner(
    *,
    broker: str,
    store: str,
    runtime_id: str,
    agents: Sequence[str],
    topics: Topics,
    concurrency: int,
    prefetch: int,
    processes: int,
    processes_wanted: int,
    lease: float | None,
    findings: Sequence[Finding] = (),
) -> str:
    """Return the banner, several lines, without the broker's password."""
    about_processes = ""
    if processes == 0:
        about_processes = "  (actors run in this process)"
    elif processes < processes_wanted:
        about_processes = f"  (not {processes_wanted}: no more than tasks at once)"
    lines = [
        "murmur worker",
        f"  broker       {broker}",
        f"  store        {store}",
        f"  runtime id   {runtime_id}",
        f"  concurrency  {concurrency}",
        f"  prefetch     {prefetch}",
        f"  processes    {processes}{about_processes}",
        f"  lease        {f'{lease:g} s, renewed' if lease else 'off'}",
        "  agents",
    ]
    lines += [
        f"    {agent}: {topics.tasks(agent)} -> {topics.results(agent)}, dead letters {topics.dead(agent)}"
        for agent in agents
    ]
    lines += [f"  {finding}" for finding in findings if finding.severity is not Severity.NOTE]
    return "\n".join(lines) + "\n"
