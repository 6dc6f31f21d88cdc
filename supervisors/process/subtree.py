"""A supervisor, with all below it, in a process of its own: what a child with a SupervisorSpec runs there.

It is named, not imported, by `target`. The reason for which the supervisor ends crosses like any other.
"""

from supervisors.child import ChildContext, Exit
from supervisors.errors import SupervisorFailed
from supervisors.opening import open_supervisor
from supervisors.spec import Init, SupervisorSpec
from supervisors.supervisor_child import made


async def run(ctx: ChildContext, start: SupervisorSpec | Init) -> None:
    """Keep the tree until it is asked to stop, or ends."""
    spec = made(start)
    if spec is None:
        ctx.ignore()
    try:
        async with open_supervisor(spec, name=ctx.path) as supervisor:
            ctx.ready()
            await ctx.stopping.wait()
    except SupervisorFailed as failure:
        raise Exit(failure.reason) from failure
    if supervisor.ended is not None:
        raise Exit(supervisor.ended)
