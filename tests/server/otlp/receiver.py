"""A receiver of OTLP over HTTP in a process of its own. Prints its port, then each request, decoded, as a line of JSON.

With the argument `hang` it takes requests and never answers; with `hang /v1/logs` those to that path.
"""

import gzip
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

KINDS: dict[str, Any] = {"/v1/metrics": ExportMetricsServiceRequest, "/v1/logs": ExportLogsServiceRequest}


class Receiver(BaseHTTPRequestHandler):
    """Decodes with OpenTelemetry's own messages."""

    def do_POST(self) -> None:
        """One export."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        message = KINDS[self.path]()
        message.ParseFromString(body)
        found = {"path": self.path, "key": self.headers.get("x-key"), "body": MessageToDict(message)}
        sys.stdout.write(json.dumps(found) + "\n")  # in one write: several threads do this
        sys.stdout.flush()
        if "hang" in sys.argv and sys.argv[-1] in ("hang", self.path):
            time.sleep(600)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        """Nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
