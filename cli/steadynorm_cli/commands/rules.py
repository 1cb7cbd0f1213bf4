"""`steadynorm rules`: lists, adds and removes watch rules, which change a run's settings when a condition is met."""

import sys
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from steadynorm_cli.commands.options import AsJson, Reason, Run, Server, find_run
from steadynorm_cli.commands.outcome import CONFLICT, confirmed
from steadynorm_cli.commands.output import assignments, console, table, tell, timestamp
from steadynorm_cli.commands.set import parse_changes
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import Client, Conflict
from steadynorm_contract.watch_rules import RuleList, RuleView, WatchRule, parse_condition


def rules(
    run: Run,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE...", help="With --add: the change, for example reset_generation=+1"),
    ] = None,
    add: Annotated[str | None, typer.Option(metavar="ID", help="Add a rule, or replace the one with this id.")] = None,
    when: Annotated[
        str | None,
        typer.Option(
            help='The condition: "loss > mean + 6 sigma of 200 for 3 steps", "nonfinite > 0, 3 times in 20 steps", '
            '"raw_norm > 20 x median of 500", "loss is nan" or "target_min < 0.3 for 200 steps".'
        ),
    ] = None,
    max_actions: Annotated[int, typer.Option(min=1, help="Actions after which the rule becomes inactive.")] = 1,
    cooldown_steps: Annotated[int, typer.Option(min=0, help="Steps of cooldown after an action.")] = 100,
    cooldown_s: Annotated[float, typer.Option(min=0, help="Seconds of cooldown after an action.")] = 0.0,
    reason: Reason = "",
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Remove a rule.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's watch rules, add one with --add, or remove one with --remove. Exit codes: 3 conflict, 7 unknown."""
    if add is not None and (when is None or not changes or remove is not None):
        raise CommandError('--add requires --when "CONDITION" and NAME=VALUE, and excludes --remove.', 2)
    if add is None and (when is not None or changes):
        raise CommandError("missing --add ID.", 2)
    client = Client(server)
    run_id = find_run(client, run).run_id
    known = client.rules(run_id)
    if add is not None and when is not None and changes:
        try:
            condition = parse_condition(when)
        except ValueError as error:
            raise CommandError(str(error), 2) from None
        new = WatchRule(
            id=add, when=condition, settings=parse_changes(changes), reason=reason, max_actions=max_actions,
            cooldown_steps=cooldown_steps, cooldown_s=cooldown_s,
        )  # fmt: skip
        known = _replace(client, run_id, known.with_rule(new), known.revision)
        for each in known.rules:
            if each.rule.id == add and each.warning:
                print(f"warning: {plain(each.warning)} The rule waits for it.", file=sys.stderr)
    elif remove is not None:
        if not any(each.rule.id == remove for each in known.rules):
            raise CommandError(f"{run_id} has no rule {remove!r}: `steadynorm rules {run_id}` lists them.")
        known = _replace(client, run_id, known.without(remove), known.revision)
    if as_json:
        typer.echo(msgspec.json.encode(known))
    elif known.rules:
        _print(known)
    else:
        tell(f"{run_id} has no rules; `steadynorm rules {run_id} --add ID` makes one")


def _replace(client: Client, run_id: str, rules: list[WatchRule], revision: int) -> RuleList:
    try:
        return confirmed(lambda: client.set_rules(run_id, rules, revision=revision))
    except Conflict as error:
        raise CommandError(f"nothing was changed: {error}", CONFLICT) from None


def _print(known: RuleList) -> None:
    columns = ("ID", "WHEN", "CHANGE", "COUNT", "ACTIONS", "BY", "STATUS")
    listed = table(*columns, fixed=("ID", "COUNT", "ACTIONS"))
    for each in known.rules:
        count, actions = f"{each.count} of {each.needed}", f"{each.actions} of {each.rule.max_actions}"
        change = assignments(each.rule.settings)
        cells = (each.rule.id, each.condition, change, count, actions, each.created_by, _status(each))
        listed.add_row(*(escape(plain(cell)) for cell in cells))
    console().print(listed)


def _status(each: RuleView) -> str:
    if each.stopped:
        return "stopped: Redis was restored from a backup; remove the rule and add it again to re-enable it"
    if not each.actions_left:
        return f"no actions left; the last was at step {each.last_step}"
    if each.cooldown_until_step is not None:
        return f"cooldown until step {each.cooldown_until_step}"
    if each.cooldown_until_time is not None:
        return f"cooldown until {timestamp(each.cooldown_until_time)}"
    if not each.has_value:
        return ": ".join(filter(None, ("has seen no value yet", each.warning)))
    return "active"
