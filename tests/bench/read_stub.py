"""A server that answers each request of the read API's load with the same bytes: what the load itself costs the sends.

python -m tests.bench.read_stub PORT
"""

import asyncio
import sys
from typing import cast

import uvloop

_BODY = b"x" * 700  # about a balance of three lots
_ANSWER = b'HTTP/1.1 200 OK\r\nETag: W/"3.0"\r\nContent-Length: %d\r\n\r\n%b' % (len(_BODY), _BODY)


class _Stub(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Answer: a client asks one thing at a time, in one piece."""
        assert data.endswith(b"\r\n\r\n"), data
        self._transport.write(_ANSWER)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Stub, "127.0.0.1", port)
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await told
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
