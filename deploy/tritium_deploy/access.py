"""How our own clients reach a server: the one place where their channels are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tritonclient.grpc import InferenceServerClient

from tritium_client import Tls
from tritium_client._admin_key import HEADER

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
    """What the server's model control asks for; None where it asks for nothing."""

    @property
    def admin_headers(self) -> Mapping[str, str]:
        """GRPC metadata of calls to model control."""
        return {} if self.admin_key is None else {HEADER: self.admin_key}

    def connect(self, endpoint: str) -> InferenceServerClient:
        """A client of one server, `host:port`; nothing is sent before its first call."""
        if self.tls is None:
            return InferenceServerClient(endpoint)
        name = self.tls.server_name
        options = [("grpc.ssl_target_name_override", name)] if name is not None else []
        return InferenceServerClient(
            endpoint, creds=self.tls.credentials(), channel_args=[*CHANNEL_OPTIONS, *options]
        )


OPEN = Access()
"""Plain text, to a server that asks for nothing."""
