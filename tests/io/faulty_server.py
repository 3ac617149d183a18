"""A web server in a thread on 127.0.0.1 that serves bytes from memory and misbehaves as it is told."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Faults:
    """``files`` by path; ``cuts``: after how many bytes the next answers break off; what else goes wrong."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    etag: str | None = '"one"'
    ignores_range: bool = False
    content_type: str = "application/octet-stream"
    says_length: bool = True
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(faults: Faults) -> Iterator[Faults]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *given: object) -> None:
            pass

        def do_GET(self) -> None:
            self.path, wanted = self.path.partition("?")[0], self.headers.get("Range")
            faults.asked.append((self.path, wanted))
            status = faults.statuses.pop(0) if faults.statuses else 0
            if self.path in faults.redirects:
                self.send_response(302)
                self.send_header("Location", faults.redirects[self.path])
                self.end_headers()
                return
            if status or self.path not in faults.files:
                self.send_error(status or 404)
                return
            content, start = faults.files[self.path], 0
            same = self.headers.get("If-Range") in (None, faults.etag)
            if wanted and same and not faults.ignores_range:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Type", faults.content_type)
            if faults.says_length:
                self.send_header("Content-Length", str(len(content) - start))
            if faults.etag:
                self.send_header("ETag", faults.etag)
            self.end_headers()
            end = min(len(content), start + faults.cuts.pop(0)) if faults.cuts else len(content)
            self.wfile.write(content[start:end])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    faults.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
