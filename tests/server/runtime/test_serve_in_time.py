"""What the server's process holds to a time. In a file of its own, whose tests run alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.server_process import server_process, stop

from steadynorm_contract.codec import encode_json


@pytest.mark.serial
def test_an_open_long_poll_does_not_hold_the_stop_up(tmp_path: Path, make_agent: Any, eventually: Any) -> None:
    with server_process(tmp_path) as (server, announced):
        address = announced[0].split()[-1]
        headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
        with httpx.Client(base_url=f"{address}/api/v1", headers=headers, timeout=60) as http:
            http.post("/runs", content=encode_json(make_agent(None).registration))
            responses: list[httpx.Response] = []
            url = "/runs/tiny-1/settings?after_revision=0&wait=60"
            waiting = threading.Thread(target=lambda: responses.append(http.get(url)))
            waiting.start()
            eventually(lambda: "steadynorm_server_waiting_requests 1.0" in httpx.get(f"{address}/metrics").text)
            _, seconds = stop(server)
            waiting.join(30)
            assert seconds < 4
            assert [answer.status_code for answer in responses] == [200]


@pytest.mark.serial
def test_answers_are_not_held_back(tmp_path: Path) -> None:
    with server_process(tmp_path) as (_, announced):
        address = announced[0].split()[-1]
        headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
        with httpx.Client(base_url=f"{address}/api/v1", headers=headers) as http:
            seconds = []
            for _ in range(30):
                began = time.perf_counter()
                http.post("/runs/unknown/telemetry", content=bytes(20_000))
                seconds.append(time.perf_counter() - began)
            assert sorted(seconds)[10] < 0.03  # Nagle's algorithm makes most of them take 40 ms
