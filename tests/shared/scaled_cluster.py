"""A deployment that a real Prometheus scrapes, and that Prometheus."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

_BUCKETS = {"0.05": 0.5, "0.1": 0.9, "0.25": 1.0, "+Inf": 1.0}
"""Shares of the requests that take at most so many seconds."""


class Cluster:
    """What cAdvisor, kube-state-metrics and the pods of `web` export. Change anything.

    Attributes:
        requests_per_s: Of all pods together; half of them on each of two pods.
        error_share: Of the requests; None: no request has ever failed, so there is no such series.
        busy: Share of the requested processors that is used.
        ready: Replicas that serve.
        ordered: Replicas that are to be.
    """

    def __init__(self) -> None:
        self.requests_per_s = 1_000.0
        self.error_share: float | None = None
        self.busy = 0.92
        self.ready = 14.0
        self.ordered = 15.0
        self._counts: dict[str, float] = {}
        self._last_s = time.monotonic()
        self._lock = threading.Lock()

    def text(self) -> str:
        """One scrape."""
        with self._lock:
            now_s = time.monotonic()
            passed_s, self._last_s = now_s - self._last_s, now_s
            deployment = 'namespace="default",deployment="web"'
            lines = [
                f"kube_deployment_status_replicas_ready{{{deployment}}} {self.ready}",
                f"kube_deployment_spec_replicas{{{deployment}}} {self.ordered}",
            ]
            for pod, share in (("web-6d5f8b-abcde", 0.5), ("web-6d5f8b-fghij", 0.5)):
                lines += self._pod(pod, share, passed_s)
            # Of another deployment, which nothing may count.
            lines += self._pod("web-api-6d5f8b-abcde", 100.0, passed_s)
            return "\n".join(lines) + "\n"

    def _pod(self, pod: str, share: float, passed_s: float) -> Iterator[str]:
        labels = f'namespace="default",pod="{pod}"'
        container = f'{labels},container="app"'
        yield f'kube_pod_container_resource_requests{{{container},resource="cpu"}} {7 * share}'
        yield f'kube_pod_container_resource_limits{{{container},resource="memory"}} {1e9 * share}'
        yield f"container_memory_working_set_bytes{{{container}}} {4e8 * share}"
        requests = self.requests_per_s * share * passed_s
        rising = {
            f"container_cpu_usage_seconds_total{{{container}}}": 7 * share * self.busy * passed_s,
            f"container_network_transmit_bytes_total{{{labels}}}": 31_250.0 * requests,
            f"container_fs_reads_total{{{container}}}": 3.0 * requests,
            f"container_fs_writes_total{{{container}}}": 2.0 * requests,
            f"http_request_duration_seconds_sum{{{labels}}}": 0.06 * requests,
        }
        failed = self.error_share
        rising[f'http_requests_total{{{labels},code="200"}}'] = requests * (1.0 - (failed or 0.0))
        if failed is not None:
            rising[f'http_requests_total{{{labels},code="503"}}'] = requests * failed
        for bound, part in _BUCKETS.items():
            name = f'http_request_duration_seconds_bucket{{{labels},le="{bound}"}}'
            rising[name] = part * requests
        for name, more in rising.items():
            self._counts[name] = self._counts.get(name, 0.0) + more
            yield f"{name} {self._counts[name]!r}"


@contextmanager
def exported(cluster: Cluster) -> Iterator[int]:
    """Serves a cluster's metrics; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = cluster.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def prometheus(program: str, target: int, port: int, folder: Path) -> Iterator[None]:
    """A real Prometheus that scrapes a port of this machine five times a second."""
    scrape = {
        "job_name": "cluster",
        "honor_labels": True,
        "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
    }
    interval = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({"global": interval, "scrape_configs": [scrape]})
    )
    arguments = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("a") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)
