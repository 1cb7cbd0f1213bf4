"""What agent, server, dashboard and command line agree on. Imports the standard library, msgspec and urllib3 only.

Messages of the agent: `telemetry`, `codec`.
Settings: `settings`, `changes`, `audit`, `bulk`, `schedules`, `proposals`, `watch_rules`, `retention`.
Conditions on what was recorded: `conditions` is their grammar, `detectors` evaluates them.
Responses of the server: `runs`, `fleet`, `series`, `events`, `problems`, `tokens`; `webhooks` is what it sends.
Shared knowledge: `signals` is the catalogue of recorded numbers, `rule` the stabilizer in plain floats.
Access: `client` is the HTTP client, `discovery` finds the user's own server and token.
"""

__version__ = "0.1.0"
"""The one place of the version: the distribution's metadata reads it here."""
