"""More callers at once than a server has time for.

python -m tests.runbook.crowd models-1:8001 300
"""

from __future__ import annotations

import asyncio
import sys

from tritium_client import AsyncClient, Tls, TritiumClientError


async def main(url: str, callers: int) -> None:
    """Each asks once, and does not mind what comes of it."""
    async with AsyncClient(url, app="openmoji", tls=Tls(ca="ca.pem")) as client:
        asked = [client.classify(text="red apple", timeout_s=4) for _ in range(callers)]
        for one in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(one, BaseException) and not isinstance(one, TritiumClientError):
                raise one


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
