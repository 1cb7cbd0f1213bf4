"""What a change of settings would do from now on, for `steadynorm set --dry-run`."""

from collections.abc import Mapping

import msgspec
import typer
from rich.markup import escape

from steadynorm_cli.commands.output import console, number, table
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract import forecast
from steadynorm_contract.client import Client
from steadynorm_contract.settings import Mode, SettingsError, merge


def foretell(client: Client, run_id: str, changes: Mapping[str, object], *, as_json: bool) -> None:
    """Print what follows with `changes` and without them, by the rule, the present statistics and recent norms.

    Raises ClientError, and CommandError for a change that the server would refuse.
    """
    run = client.run(run_id)
    was = run.applied.settings
    try:
        now = merge(run.desired.settings, changes, run.knobs or [])
    except SettingsError as error:
        raise CommandError(str(error)) from None
    parameters = client.parameters(run_id)
    worst = forecast.candidates(parameters)
    names = [f"raw_norm/{each.name}" for each in worst]
    step = parameters.step or 0
    tensors = []
    if names:
        norms = client.series(run_id, names, start=forecast.recent(run), points=10_000)
        tensors = forecast.present(run, worst, norms, client.audit(run_id).entries, step)
    with_it = [forecast.forecast(each, was, now) for each in tensors]
    without = [forecast.forecast(each, was, was) for each in tensors]
    said = forecast.consequences(was, now, with_it, run.health)
    if as_json:
        typer.echo(msgspec.json.encode({"run_id": run_id, "with": with_it, "without": without, "notes": said}))
        return
    typer.echo(f"{run_id}: nothing was changed. From now on, if norms stay as they are:")
    if not tensors:
        typer.echo("too few steps are recorded to tell. Try again later.")
    rows = table("parameter", "", "target now", *(f"in {steps}" for steps in forecast.HORIZONS), "throttled")
    for before, after in zip(without, with_it, strict=True):
        for label, each in (("as it is", before), ("changed", after)):
            rows.add_row(
                escape(plain(each.name)) if each is before else "",
                label,
                number(each.target),
                *(number(each.targets[steps]) for steps in forecast.HORIZONS),
                forecast.throttled_words(each.throttled_for, was=before.throttled_for != 0),
            )
    if tensors:
        console().print(rows)
    if tensors and was.mode is not Mode.STABILIZE and now.mode is not Mode.STABILIZE:
        said.append(f"In mode {now.mode} targets are not applied to gradients.")
    for sentence in said:
        typer.echo(sentence)
