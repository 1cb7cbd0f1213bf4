"""For malformed.py: requests that a server has to refuse, fuzzed from a seed and picked by hand. None of them is good.

Fuzzed messages are kept only where the contract's own codec refuses them too: what happens to be a valid message is no
malformed one.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from steadynorm_contract.bulk import Bulk
from steadynorm_contract.changes import Change
from steadynorm_contract.codec import MalformedMessage, decode_batch, decode_json, decode_registration
from steadynorm_contract.lifecycle import Restoration, RunUpdate
from steadynorm_contract.notes import NewNote
from steadynorm_contract.proposals import Decision, NewProposal
from steadynorm_contract.retention import RetentionUpdate
from steadynorm_contract.schedules import NewSchedule
from steadynorm_contract.settings import SettingsError
from steadynorm_contract.telemetry import RunFinish
from steadynorm_contract.watch_rules import RuleSet

__all__ = ["ZIP_BOMB", "Malformed", "malformed"]

PACK, JSON = "application/msgpack", "application/json"
ZIP_BOMB = gzip.compress(bytes(64 * 1024 * 1024), 9)


@dataclass(frozen=True, slots=True)
class Malformed:
    """One request. `path` begins behind /api/v1."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def malformed(run_id: str, count: int, seed: int = 0) -> Iterator[Malformed]:
    """`count` requests about `run_id`, a run of two parameters at incarnation 1: two of three are fuzzed."""
    rng = random.Random(seed)
    by_hand = [*_by_hand(run_id), *_what_operators_write(run_id)]
    rng.shuffle(by_hand)
    kinds = [_batches, _registrations, _changes, _ends, _bodies]
    for number in range(count):
        yield by_hand[number // 3 % len(by_hand)] if number % 3 == 0 else kinds[number % 5](run_id, rng)


def _telemetry(run_id: str, body: bytes, **headers: str) -> Malformed:
    return Malformed("POST", f"/runs/{run_id}/telemetry", body, {"Content-Type": PACK, **headers})


def _patch(run_id: str, body: bytes, match: str = '"0"') -> Malformed:
    return Malformed("PATCH", f"/runs/{run_id}/settings", body, {"Content-Type": JSON, "If-Match": match})


def _batch(**changes: object) -> bytes:
    """A batch as MessagePack: good, but for what is changed in it."""
    scalars = {
        "steps": [1, 2],
        "times": struct.pack("<2d", 1e9, 1e9),
        "data": bytes(2 * 4 * 2),
        "columns": ["loss", "x"],
    }
    rows = {"steps": [1], "parameters": 2, "data": bytes(4 * 2), "columns": ["raw_norm"]}
    whole = {
        "version": 1,
        "incarnation": 1,
        "sequence": 1,
        "scalars": scalars,
        "rows": rows,
        "applied": [],
        "notes": [],
        "user_notes": [{"step": 1, "time": 1e9, "text": "new data"}],
        "logged": [{"names": ["eval/loss", "kl"], "steps": [2], "times": struct.pack("<d", 1e9), "data": bytes(8)}],
        "described": {"kl": {"unit": "nats", "sentence": "Of the policy."}},
    }
    return msgspec.msgpack.encode(whole | changes)


def _registration(**changes: object) -> bytes:
    table = [["embed.weight", [16, 4], "float32"], ["head.weight", [4, 16], "float32"]]
    whole = {"version": 1, "name": "victim", "parameters": table, "tags": {"team": "a"}, "world_size": 2}
    whole |= {"config": {"optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}}, "environment": {"git.commit": "f00d"}}
    whole |= {"knobs": [{"name": "coef", "default": 0.5, "low": 0, "high": 1}], "later_settings": {"knob.coef": 0.25}}
    return json.dumps(whole | changes).encode()


def _mutated(good: bytes, rng: random.Random) -> bytes:
    """Cut, grown, overwritten, spliced or noise."""
    data = bytearray(good)
    match rng.randrange(6):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            data += rng.randbytes(rng.randint(1, 40))
        case 2:
            data = bytearray(rng.randbytes(rng.randint(1, 400)))
        case 3:
            at = rng.randrange(len(data))
            data[at:at] = rng.choice([b"[" * 3000, b"\x91" * 3000, b"\xdd\xff\xff\xff\xff", b"NaN", b"\x00", b"\xc1"])
        case _:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _fuzzed(good: bytes, rng: random.Random, decode: object) -> bytes:
    assert callable(decode)
    decode(good)
    while True:
        data = _mutated(good, rng)
        try:
            decode(data)
        except (MalformedMessage, SettingsError):
            return data


def _batches(run_id: str, rng: random.Random) -> Malformed:
    return _telemetry(run_id, _fuzzed(_batch(), rng, decode_batch))


def _registrations(run_id: str, rng: random.Random) -> Malformed:
    good = _registration(run_id=run_id)
    return Malformed("POST", "/runs", _fuzzed(good, rng, decode_registration), {"Content-Type": JSON})


def _changes(run_id: str, rng: random.Random) -> Malformed:
    good = b'{"settings": {"gamma1": 0.5, "mode": "observe", "spike_limit": null}, "reason": "a reason"}'
    return _patch(run_id, _fuzzed(good, rng, lambda data: decode_json(data, Change)))


_BODIES: dict[tuple[str, str], tuple[type, bytes]] = {
    ("POST", "/runs/{}/proposals"): (NewProposal, b'{"settings": {"gamma2": 0.99}, "reason": "r", "revision": 2}'),
    ("POST", "/runs/{}/proposals/none"): (Decision, b'{"approve": true, "reason": "a reason"}'),
    ("POST", "/runs/{}/notes"): (NewNote, b'{"text": "shard 3", "step": 1, "action": "note", "to": ""}'),
    ("POST", "/runs/{}/schedules"): (NewSchedule, b'{"settings": {"gamma2": 0.99}, "reason": "r", "from_step": 9000}'),
    ("PUT", "/runs/{}/rules"): (
        RuleSet,
        b'{"rules": [{"id": "a", "when": {"scalar": "loss", "comparison": ">", "value": 9}, "settings": {"lr": 1}}]}',
    ),
    ("PUT", "/runs/{}/retention"): (RetentionUpdate, b'{"max_mib": 9.5, "reason": "r", "revision": null}'),
    ("PATCH", "/runs/{}"): (RunUpdate, b'{"name": "another", "archived": true, "reason": "r"}'),
    ("POST", "/runs/{}/restore"): (Restoration, b'{"reason": "a reason"}'),
    ("POST", "/settings/bulk"): (Bulk, b'{"settings": {"gamma2": 0.9}, "select": {"name": "*"}, "dry_run": false}'),
}
"""What people and programs write beside settings: by route, its type and a good body."""


def _bodies(run_id: str, rng: random.Random) -> Malformed:
    method, path = rng.choice(list(_BODIES))
    kind, good = _BODIES[method, path]
    body = _fuzzed(good, rng, lambda data: decode_json(data, kind))
    return Malformed(method, path.format(run_id), body, {"Content-Type": JSON, "If-Match": '"2"'})


def _ends(run_id: str, rng: random.Random) -> Malformed:
    good = b'{"state": "finished", "incarnation": 1, "reason": "done"}'
    body = _fuzzed(good, rng, lambda data: decode_json(data, RunFinish))
    return Malformed("POST", f"/runs/{run_id}/finish", body, {"Content-Type": JSON})


def _by_hand(run_id: str) -> Iterator[Malformed]:
    nan, deep = float("nan"), 5000
    # Numbers that are none, too large, or of another kind.
    settings = ("gamma1", "gamma2", "eps", "spike_limit", "lr_scale", "reset_generation", "paused", "mode")
    for name in (*settings, "lr", "detail_every", "knob.x", "knob.", "knobs"):
        for value in ("NaN", "Infinity", "-1", "1e400", '"x"', "[]", '{"a": 1}', "[" * 900 + "]" * 900, str(-(10**30))):
            yield _patch(run_id, f'{{"settings": {{"{name}": {value}}}}}'.encode())
    for body in (b"null", b"[]", b'{"settings": []}', b'{"settings": {"\\ud800": 1}}', b'{"settings": {"gamma9": 1}}'):
        yield _patch(run_id, body)
    yield _patch(run_id, json.dumps({"settings": {f"knob.{at}": at for at in range(5000)}}).encode())
    yield _patch(run_id, json.dumps({"settings": {"knobs": {"<b>\x00": 1, "k" * 3000: 2}}}).encode())
    yield _patch(run_id, json.dumps({"settings": {"gamma1": 0.1}, "reason": "r" * 501}).encode())
    yield _patch(run_id, b'{"settings": {"gamma1": 0.1}}' + b" " * 70_000)
    for match in ("", "*", 'W/"0"', '"-1"', '"99999"', '"' + "9" * 400 + '"', '"0", "1"', "x" * 3000):
        yield _patch(run_id, b'{"settings": {"gamma1": 0.1}}', match)
    # Claims that do not hold: a million tensors, values that are not there, steps and columns without end.
    yield Malformed("POST", "/runs", _registration(parameters=[["", [], ""]] * 200_000), {"Content-Type": JSON})
    yield Malformed("POST", "/runs", _registration(parameters=[["", [], ""]] * 1_000_000), {"Content-Type": JSON})
    for rows in (
        {"steps": [1], "parameters": 1_000_000, "data": b"", "columns": []},
        {"steps": [1], "parameters": 1_000_000, "data": bytes(4_000_000), "columns": ["raw_norm"]},
        {"steps": list(range(500_000)), "parameters": 2, "data": b"", "columns": []},
        {"steps": [1], "parameters": 2, "data": b"", "columns": []},
        {"steps": [1], "parameters": 2, "data": bytes(8 * 2000), "columns": [str(at) for at in range(2000)]},
        {"steps": [-1], "parameters": 2, "data": bytes(8), "columns": ["raw_norm"]},
        {"steps": [1], "parameters": 2, "data": bytes(7), "columns": ["raw_norm"]},
        {"steps": [1], "parameters": -2, "data": b"", "columns": ["raw_norm"]},
    ):
        yield _telemetry(run_id, _batch(rows=rows))
    for scalars in (
        {"steps": [1], "times": struct.pack("<d", nan), "data": bytes(4), "columns": ["loss"]},
        {"steps": [1], "times": struct.pack("<d", math.inf), "data": bytes(4), "columns": ["loss"]},
        {"steps": [2**63], "times": bytes(8), "data": bytes(4), "columns": ["loss"]},
        {"steps": [1], "times": bytes(8), "data": bytes(8), "columns": ["loss", "loss"]},
        {"steps": [1], "times": b"", "data": bytes(4), "columns": ["loss"]},
        {"steps": [nan], "times": bytes(8), "data": bytes(4), "columns": ["loss"]},
        {"steps": [1] * 400_000, "times": bytes(3_200_000), "data": b"", "columns": []},
    ):
        yield _telemetry(run_id, _batch(scalars=scalars))
    for logged in (
        {"names": ["x"], "steps": [1], "times": bytes(8), "data": bytes(8)},
        {"names": ["x"], "steps": [1], "times": b"", "data": bytes(4)},
        {"names": ["loss"], "steps": [1], "times": bytes(8), "data": bytes(4)},
        {"names": ["x", "x"], "steps": [1], "times": bytes(8), "data": bytes(8)},
        {"names": ["a\x00b"], "steps": [1], "times": bytes(8), "data": bytes(4)},
        {"names": ["x"], "steps": [-1], "times": bytes(8), "data": bytes(4)},
        {"names": ["x"], "steps": [1], "times": struct.pack("<d", nan), "data": bytes(4)},
        {"names": [str(at) for at in range(257)], "steps": [], "times": b"", "data": b""},
    ):
        yield _telemetry(run_id, _batch(logged=[logged]))
    yield _telemetry(run_id, _batch(described={"x": {"unit": "u" * 41}}))
    report = {"revision": 1, "step": 1, "outcome": "applied", "settings": {}, "time": 1.0}
    for change in (
        {"time": nan},
        {"step": -1},
        {"revision": 2**60},
        {"outcome": "x"},
        {"settings": {"gamma1": nan}},
        {"settings": {"knobs": {"a b": 1}}},
        {"settings": {"knobs": {"x": nan}}},
        {"settings": {"knobs": {f"k{at}": 1 for at in range(65)}}},
        {"settings": {"detail_every": 0}},
    ):
        yield _telemetry(run_id, _batch(applied=[report | change]))
    yield _telemetry(run_id, _batch(applied=[report] * 1001))
    yield _telemetry(run_id, _batch(batch_ids={1: "b" * 201}))
    yield _telemetry(run_id, _batch(batch_ids=dict.fromkeys(range(3), "b")))
    for wrong in ({"incarnation": 0}, {"incarnation": 7}, {"sequence": 0}, {"sequence": 2**60}, {"version": 99}):
        yield _telemetry(run_id, _batch(**wrong))
    yield _telemetry(run_id, _batch(counters={"produced": -1}))
    # Deep, large, compressed, and of another kind than they say.
    yield _telemetry(run_id, b"\x91" * deep)
    yield _telemetry(run_id, b"\x81\xa1x" * deep)
    yield _telemetry(run_id, bytes(4 * 1024 * 1024 + 1))
    yield _telemetry(run_id, ZIP_BOMB, **{"Content-Encoding": "gzip"})
    yield _telemetry(run_id, ZIP_BOMB, **{"Content-Encoding": "GZIP, br"})
    yield _telemetry(run_id, ZIP_BOMB)
    yield Malformed("POST", "/runs", b'{"name":' + b"[" * deep, {"Content-Type": JSON})
    yield Malformed("POST", "/runs", b'{"x":' * deep + b"1" + b"}" * deep, {"Content-Type": JSON})
    yield Malformed("POST", "/runs", b'{"name": "x"}', {"Content-Type": "text/xml"})
    wrongs: list[dict[str, object]] = [
        {"name": ""},
        {"name": "n" * 201},
        {"name": "\ud800"},
        {"run_id": "../x"},
        {"run_id": "a}b"},
        {"tags": {str(at): "t" for at in range(51)}},
        {"tags": {"t": "v" * 501}},
        {"step": -1},
        {"world_size": 0},
        {"applied_revision": 2**70},
        {"allow": ["gamma9"]},
        {"host": "h" * 501},
        {"parameters": [["a" * 501, [1], "f"]]},
        {"parameters": [["a", [1] * 65, "f"]]},
        {"parameters": [["a", [-1], "f"]]},
        {"parameters": [["a", [1], "f" * 101]]},
        {"settings": {"gamma1": 2}},
        {"knobs": [{"name": "k", "default": 0, "low": 0}]},
        {"knobs": [{"name": "k", "default": 2, "low": 0, "high": 1}]},
        {"knobs": [{"name": "k", "default": 0, "low": 0, "high": 1e400}]},
        {"knobs": [{"name": "<b>", "default": 0, "low": 0, "high": 1}]},
        {"knobs": [{"name": "k", "default": 0, "low": 0, "high": 1, "kind": "word"}]},
        {"knobs": [{"name": "k", "default": 0, "low": 0, "high": 1}] * 2},
        {"knobs": [{"name": "k", "default": 0, "low": 0, "high": 1, "sentence": "s" * 301}]},
        {"knobs": [{"name": f"k{at}", "default": 0, "low": 0, "high": 1} for at in range(65)]},
        {"later_settings": {"knob.unknown": 1}},
        {"later_settings": {"lr": -1}},
        {"later_settings": {f"k{at}": 1 for at in range(100)}},
        {"later_allow": ["knob.a b"]},
        {"later_allow": ["lr"] * 200},
    ]
    for changes in wrongs:
        yield Malformed("POST", "/runs", _registration(**changes), {"Content-Type": JSON})
    # Addresses and questions.
    for path in (
        "/runs/%00",
        "/runs/..%2f..",
        "/runs/" + "x" * 5000,
        "/runs/%F0%9F%92%A9/series",
        "/nothing",
        "/runs/",
    ):
        yield Malformed("GET", path)
    for query in (
        *("series?names=nothing", "series?names=raw_norm/none", "series?from=x", "series?from=-1", "series?points=0"),
        *("series?points=99999999", "series?from=5&to=1", "series?names=" + ",".join(f"n{at}" for at in range(65))),
        *("events?limit=0", "events?limit=1e3", "audit?limit=-5", "settings?wait=nan", "settings?wait=1e9"),
        *("settings?after_revision=-1", "settings?after_revision=" + "9" * 400, "series?to=" + "9" * 400),
    ):
        yield Malformed("GET", f"/runs/{run_id}/{query}")
    for method in ("PUT", "TRACE", "OPTIONS", "POST"):
        yield Malformed(method, f"/runs/{run_id}/settings", b"{}", {"Content-Type": JSON})
    yield Malformed("DELETE", f"/runs/{run_id}-none")


def _what_operators_write(run_id: str) -> Iterator[Malformed]:
    """Proposals, notes, schedules, rules, limits, names and bulk changes with values that nothing may take."""
    deep = "[" * 900 + "]" * 900
    wrong: dict[tuple[str, str], list[str]] = {
        ("POST", "/runs/{}/proposals"): [
            *(f'{{"settings": {{"gamma2": {value}}}, "revision": 2}}' for value in ("2", "NaN", "[]", "1e400", deep)),
            *(f'{{"settings": {{"gamma2": 0.5}}, "revision": {value}}}' for value in ("-1", "99", "1e400", "null")),
            '{"settings": {}, "revision": 2}',
            '{"settings": {"knob.none": 1}, "revision": 2}',
            '{"settings": {"gamma2": 0.5}, "revision": 2, "approve": true}',
            json.dumps({"settings": {"gamma2": 0.5}, "revision": 2, "reason": "r" * 501}),
            json.dumps({"settings": {f"knob.{at}": at for at in range(5000)}, "revision": 2}),
        ],
        ("POST", "/runs/{}/proposals/none"): ["{}", '{"approve": 1}', '{"approve": true}', '{"approve": false}'],
        ("POST", "/runs/{}/notes"): [
            "{}",
            '{"text": ""}',
            '{"text": "x", "step": -1}',
            '{"text": "x", "step": 1e400}',
            '{"text": "x", "event": "none"}',
            '{"text": "x", "action": "burn"}',
            '{"text": "x", "action": "take"}',
            '{"text": "\\ud800"}',
            json.dumps({"text": "x" * 2001}),
            json.dumps({"text": "x", "to": "y" * 300}),
        ],
        ("POST", "/runs/{}/schedules"): [
            *(f'{{"settings": {{"gamma2": 0.5}}, "from_step": {value}}}' for value in ("-1", "0", "1e400", "null")),
            '{"settings": {"gamma2": 2}, "from_step": 9000}',
            '{"settings": {"knob.none": 1}, "from_step": 9000}',
        ],
        ("PUT", "/runs/{}/rules"): [
            '{"rules": [{"id": "a"}]}',
            '{"rules": [], "revision": 99}',
            *(
                f'{{"rules": [{{"id": "a", "when": {when}, "settings": {{"gamma2": 0.5}}}}]}}'
                for when in (
                    '"loss > 1"',
                    '{"scalar": "loss", "comparison": "~", "value": 1}',
                    '{"scalar": "", "comparison": ">", "value": 1}',
                    '{"scalar": "loss", "comparison": ">", "value": NaN}',
                    deep,
                )
            ),
        ],
        ("PUT", "/runs/{}/retention"): ['{"max_mib": -1}', '{"max_mib": 1e400}', '{"days": 9}', '{"revision": 99}'],
        ("PATCH", "/runs/{}"): [
             '{"name": ""}', '{"archived": "yes"}', '{"deleted": true}', json.dumps({"name": "n" * 201}),
        ],
        ("POST", "/runs/{}/restore"): ['{"reason": 1}', '{"grace_s": 1}'],
        ("POST", "/settings/bulk"): [
            '{"settings": {"gamma2": 0.5}, "select": {}}',
            '{"settings": {"gamma2": 2}, "select": {"name": "*"}}',
            '{"settings": {"gamma2": 0.5}, "select": {"name": "*"}, "dry_run": false}',
            json.dumps({"settings": {"gamma2": 0.5}, "select": {"run_ids": [str(at) for at in range(20_000)]}}),
        ],
    }  # fmt: skip
    for (method, path), bodies in wrong.items():
        for body in ("", "null", "[]", "[" * 5000, *bodies):
            yield Malformed(method, path.format(run_id), body.encode(), {"Content-Type": JSON, "If-Match": '"2"'})
    for config in ({"x": {"y": None}} | {str(at): "v" * 1000 for at in range(80)}, [1], "x"):
        yield Malformed("POST", "/runs", _registration(config=config), {"Content-Type": JSON})
    nested: object = 1
    for _ in range(100):
        nested = {"x": nested}
    yield Malformed("POST", "/runs", _registration(config=nested), {"Content-Type": JSON})
    for environment in ({str(at): "v" for at in range(101)}, {"git.commit": "v" * 1001}, {"x": 1}):
        yield Malformed("POST", "/runs", _registration(environment=environment), {"Content-Type": JSON})
    note = {"step": 1, "time": 1e9, "text": "n"}
    for odd_note in ({"step": -1}, {"time": math.nan}, {"text": 1}):
        yield _telemetry(run_id, _batch(user_notes=[note | odd_note]))
    yield _telemetry(run_id, _batch(user_notes=[note] * 1001))
    odd: list[dict[str, dict[str, str]]] = [{"loss": {}}, {"x": {"sentence": "s" * 301}}, {"a\x00b": {}}]
    for described in (*odd, {str(at): {} for at in range(257)}):
        yield _telemetry(run_id, _batch(described=described))
