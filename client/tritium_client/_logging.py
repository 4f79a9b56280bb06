"""The client's logger: silent until the application configures logging.

    logging.getLogger("tritium_client").setLevel(logging.DEBUG)

INFO: a request is sent again, a server is back. WARNING: a server is left out for a while. DEBUG:
hedges. Lines carry request ids and endpoints, never inputs, tokens or metadata.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("tritium_client")
logger.addHandler(logging.NullHandler())
