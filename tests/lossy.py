"""A connection to PostgreSQL that is lost at the worst moment: the server has committed, and nobody hears of it."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import psycopg
from psycopg.conninfo import make_conninfo

Loses = Literal["answer", "request"]
_COMMITS = re.compile(rb'commit\0|call "?tick', re.IGNORECASE)
_DONE = (b"COMMIT\0", b"CALL\0")  # tags of what commits: of an explicit transaction, and of a CALL by itself


class Lossy:
    """A proxy in front of the server. Armed, it cuts the next connections that commit, and says how many it has cut.

    "answer": what the server says to COMMIT is swallowed, until it is ready for more: then all is on disk.
    "request": the connection is cut before the COMMIT gets to the server, so that nothing is.
    A client cannot tell one from the other.
    """

    def __init__(self, dsn: str) -> None:
        with psycopg.connect(dsn) as conn:
            self._server = conn.info.host, conn.info.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        # in the clear, so that what is said can be read
        self.dsn = make_conninfo(dsn, host="127.0.0.1", hostaddr="", port=port, sslmode="disable", gssencmode="disable")
        self.cuts = self.connections = 0
        self._left, self._loses = 0, "answer"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, loses: Loses, times: int = 1) -> None:
        with self._lock:
            self.cuts, self._left, self._loses = 0, times, loses

    def close(self) -> None:
        self._listener.close()
        for sock in list(self._open):
            _close(sock)

    def _take(self, loses: Loses) -> bool:
        """Whether this one is to be cut."""
        with self._lock:
            if self._left < 1 or self._loses != loses:
                return False
            self._left -= 1
            self.cuts += 1
            return True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = self._connect()
            self._open |= {client, server}
            for work in (self._to_server, self._to_client):
                threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._server
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(1 << 16):
                if _COMMITS.search(chunk) and self._take("request"):
                    break
                server.sendall(chunk)
        self._end(client, server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        """Message by message: a type, a length that counts itself, a body."""
        is_cut = False
        with contextlib.suppress(OSError), server.makefile("rb") as messages:
            while len(head := messages.read(5)) == 5:
                body = messages.read(struct.unpack("!I", head[1:])[0] - 4)
                is_cut = is_cut or (head[:1] == b"C" and body in _DONE and self._take("answer"))
                if not is_cut:
                    client.sendall(head + body)
                elif head[:1] == b"Z":  # a CALL by itself is committed after it was answered, before this
                    break
        self._end(client, server)

    def _end(self, *socks: socket.socket) -> None:
        for sock in socks:
            _close(sock)
        self._open -= {*socks}


def _close(sock: socket.socket) -> None:
    """Also for the thread that is waiting for it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@contextmanager
def lossy(dsn: str) -> Iterator[Lossy]:
    proxy = Lossy(dsn)
    try:
        yield proxy
    finally:
        proxy.close()
