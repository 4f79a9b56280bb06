"""How our own clients reach a server: the one place where their channels are made."""

from __future__ import annotations

from dataclasses import dataclass, field

from tritonclient.grpc import InferenceServerClient

from tritium_client import Tls
from tritium_client._admin_key import HEADER, local_key

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A fleet's servers may have one address and different certificates after a restart.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Access:
    """What a client brings."""

    tls: Tls | None = None
    """None for plain text."""
    admin_key: str | None = field(default=None, repr=False)
    """What the server's model control asks for; None for the key of a server of this user on this
    machine, if it is one."""

    def admin_headers(self, endpoint: str) -> dict[str, str]:
        """GRPC metadata of calls to model control of one server, `host:port`.

        A local server's key is looked up each time: started again, it has another one.
        """
        key = local_key(endpoint) if self.admin_key is None else self.admin_key
        return {} if key is None else {HEADER: key}

    def connect(self, endpoint: str) -> InferenceServerClient:
        """A client of one server, `host:port`; nothing is sent before its first call."""
        if self.tls is None:
            return InferenceServerClient(endpoint)
        name = self.tls.server_name
        options = [("grpc.ssl_target_name_override", name)] if name is not None else []
        return InferenceServerClient(
            endpoint, creds=self.tls.credentials(), channel_args=[*CHANNEL_OPTIONS, *options]
        )


PLAIN = Access()
"""Plain text, and the key of a local server."""
