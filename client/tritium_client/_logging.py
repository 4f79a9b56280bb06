"""The client's logger: silent until the application configures logging.

    logging.getLogger("tritium_client").setLevel(logging.DEBUG)

INFO: a request is sent again, or goes to the live release in place of a candidate; a server is
back; how a candidate compares. WARNING: a server is left out for a while; a rollout cannot be read.
DEBUG: hedges; a rollout that was not read, a shadow that failed. Lines carry request ids and
endpoints, never inputs, route keys, tokens or metadata.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("tritium_client")
logger.addHandler(logging.NullHandler())
