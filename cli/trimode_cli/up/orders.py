"""Orders from `trimode apply`, carried out by the running `up`.

Belongs here: one order in, one answer out, and the line that `up` shows of it. Whatever is wrong with an order, the
fleet goes on as it was.
"""

from __future__ import annotations

import structlog

from trimode_api.errors import InvalidInput, TrimodeError
from trimode_api.resource import NemotronDeployment
from trimode_cli.errors import BadInput
from trimode_cli.up import preflight
from trimode_cli.up.control import Order
from trimode_cli.up.plan import Update, plan
from trimode_cli.up.stack import Stack

log = structlog.get_logger("up")


def take(order: Order, stack: Stack) -> str:
    """Carry out `order` and answer it; returns the line to show."""
    try:
        if order.name == "status":
            order.answer(**_status(stack))
            return "asked for its status"
        if order.name != "apply":
            raise BadInput(f"unknown order {order.name!r}; this `up` knows apply and status")
        update = _apply(order, stack)
    except TrimodeError as exc:
        order.answer(error=str(exc), status=2 if isinstance(exc, BadInput | InvalidInput) else 1)
        return f"apply refused: {str(exc).splitlines()[0]}"
    except Exception as exc:  # whatever it is, what serves must go on serving
        log.exception("order failed", order=order.name)
        order.answer(
            error=f"not foreseen, the log of `trimode up` has its trace: {type(exc).__name__}: {exc}", status=1
        )
        return f"{order.name} failed: {type(exc).__name__}: {exc}"
    order.answer(
        changes=[str(change) for change in update.changes],
        actions=list(actions(update)),
        generation=stack.version,
    )
    return f"applied generation {stack.version}: {', '.join(actions(update))}" if update.changes else "apply: unchanged"


def actions(update: Update) -> tuple[str, ...]:
    """What was done, in words."""
    done = ["policy pushed: no restart, no request dropped"] if update.policy else []
    done += [f"pool {name} scales" for name in update.scale]
    done += [f"pool {name} rolls to new replicas" for name in update.roll]
    done += [f"pool {name} is drained and removed" for name in update.remove]
    if any(change.path.startswith("spec.router") for change in update.changes):
        done.append("spec.router counts from the next `trimode up` on")
    if update.changes and not done:
        done.append("nothing to do on one machine")
    return tuple(done)


def _apply(order: Order, stack: Stack) -> Update:
    new = NemotronDeployment.parse(order.resource)
    pools = plan(new)
    model = preflight.model_folder(new)
    preflight.check_machine(pools, preflight.machine_gpus(), preflight.machine_cores(), preflight.machine_memory())
    return stack.apply(new, model)


def _status(stack: Stack) -> dict[str, object]:
    assert stack.router is not None
    return {"name": stack.deployment.metadata.name, "url": stack.router.url, "generation": stack.version}
