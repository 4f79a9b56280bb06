"""A TCP proxy between a client and a server that injects what networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Literal

Fault = Literal["none", "refuse", "reset", "black hole", "slow"]
CHUNK = 65_536
SLOW_S = 0.3
RESET_AFTER = 200
"""Bytes of a request: after gRPC's handshake, before its answer."""


class Proxy:
    """Listens on a free loopback port and passes everything on, or not.

    none: passes on. refuse: nobody listens. reset: ends every connection with RST as soon as a
    request is on its way. black hole: takes everything, passes nothing on, ends nothing. slow:
    passes answers on 0.3 s late.

    Args:
        target: host:port of the server.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._fault: Fault = "none"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._port = 0
        self._listen()

    @property
    def url(self) -> str:
        """host:port of the proxy."""
        return f"127.0.0.1:{self._port}"

    def inject(self, fault: Fault) -> None:
        """From now on, for connections that are open as well."""
        before, self._fault = self._fault, fault
        if fault == "refuse":
            self._stop_listening()
            self._end_all()
        elif before == "refuse":
            self._listen()
        elif before == "black hole":
            self._end_all()  # a healed network does not bring back what was lost in it

    def close(self) -> None:
        """End everything."""
        self._stop_listening()
        self._end_all()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(64)
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # close() alone does not wake up the thread in accept().
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 5)
                server.settimeout(None)
            except OSError:
                caller.close()
                continue
            with self._lock:
                self._open |= {caller, server}
            for pair, to_server in (((caller, server), True), ((server, caller), False)):
                threading.Thread(target=self._pass, args=(*pair, to_server), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        seen = 0
        try:
            while data := source.recv(CHUNK):
                while self._fault == "black hole" and source.fileno() >= 0:
                    time.sleep(0.01)
                if self._fault == "slow" and not to_server:
                    time.sleep(SLOW_S)
                seen = seen + len(data) if to_server else 0
                if self._fault == "reset" and to_server and seen > RESET_AFTER:
                    self._reset(source)
                    return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            self._end(source)
            self._end(sink)

    def _reset(self, connection: socket.socket) -> None:
        linger = struct.pack("ii", 1, 0)  # close() then sends RST in place of FIN
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _end_all(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            if connection not in self._open:
                return
            self._open.discard(connection)
        with contextlib.suppress(OSError):  # the other side was faster
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
