"""`steadynorm rules`: what a run's own scalars may do to its settings; shown, given and taken away."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from steadynorm_cli.commands.options import AsJson, Run, Server, console, find_run, plain
from steadynorm_cli.commands.schedules import shown_changes
from steadynorm_cli.commands.set import CONFLICT, parse_unresolved
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client, Conflict
from steadynorm_contract.watch_rules import RuleList, RuleView, WatchRule, parse_condition

__all__ = ["rules"]


def rules(
    run: Run,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE...]", help="With --add: what it does, such as reset_generation=+1"),
    ] = None,
    add: Annotated[
        str | None, typer.Option(metavar="ID", help="Give the run a rule, or another one of this id.")
    ] = None,
    when: Annotated[
        str | None, typer.Option(help='Such as "target_min < 0.3 for 200 steps" or "nonfinite > 0, 3 times".')
    ] = None,
    max_actions: Annotated[int, typer.Option(min=1, help="How often it may act in all.")] = 1,
    cooldown_steps: Annotated[int, typer.Option(min=0, help="Steps after an action in which it rests.")] = 100,
    cooldown_s: Annotated[float, typer.Option(min=0, help="Seconds after an action in which it rests.")] = 0.0,
    reason: Annotated[str, typer.Option(help="Why; it stands in the run's audit list.")] = "",
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Take a rule away.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's watch rules, or give it one with --add, or take one away with --remove. Exit code 3: conflict."""
    if add is not None and (when is None or not changes or remove is not None):
        raise CommandError('--add wants --when "CONDITION" and NAME=VALUE, and no --remove beside it.', 2)
    if add is None and (when is not None or changes):
        raise CommandError("a rule needs an id: say --add ID.", 2)
    client = Client(server)
    run_id = find_run(client, run).run_id
    known = client.rules(run_id)
    if add is not None and when is not None and changes:
        try:
            condition = parse_condition(when)
        except ValueError as error:
            raise CommandError(str(error), 2) from None
        new = WatchRule(
            id=add, when=condition, settings=parse_unresolved(changes), reason=reason, max_actions=max_actions,
            cooldown_steps=cooldown_steps, cooldown_s=cooldown_s,
        )  # fmt: skip
        known = _replace(client, run_id, known.with_rule(new), known.revision)
    elif remove is not None:
        if not any(each.rule.id == remove for each in known.rules):
            raise CommandError(f"{run_id} has no rule {remove!r}: `steadynorm rules {run_id}` lists them.")
        known = _replace(client, run_id, known.without(remove), known.revision)
    if as_json:
        typer.echo(msgspec.json.encode(known))
    elif known.rules:
        _print(known)
    else:
        typer.echo(f"{run_id} has no rules: nothing changes its settings by itself")


def _replace(client: Client, run_id: str, rules: list[WatchRule], revision: int) -> RuleList:
    try:
        return client.set_rules(run_id, rules, revision=revision)
    except Conflict as error:
        raise CommandError(f"nothing was done: {error}", CONFLICT) from None


def _print(known: RuleList) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "WHEN", "CHANGE", "COUNT", "ACTIONS", "BY", "NOW"):
        table.add_column(column, no_wrap=column in ("ID", "COUNT", "ACTIONS"))
    for each in known.rules:
        count, actions = f"{each.count} of {each.needed}", f"{each.actions} of {each.rule.max_actions}"
        cells = (each.rule.id, each.condition, shown_changes(each.rule.settings), count, actions, each.created_by,
                 _now(each))  # fmt: skip
        table.add_row(*(escape(plain(cell)) for cell in cells))
    console().print(table)


def _now(each: RuleView) -> str:
    if each.stopped:
        return "stopped: the store was put back; give it anew to go on"
    if not each.actions_left:
        return f"its actions are spent, the last at step {each.last_step}"
    if each.cooldown_until_step is not None:
        return f"rests until step {each.cooldown_until_step}"
    if each.cooldown_until_time is not None:
        return f"rests until {datetime.fromtimestamp(each.cooldown_until_time, UTC):%Y-%m-%d %H:%M:%SZ}"
    return "watches"
