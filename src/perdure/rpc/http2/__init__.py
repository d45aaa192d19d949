"""gRPC over HTTP/2, on asyncio: just what a server of unary calls (and a few streams) needs, at a third of the cost of a general library.

frames       the wire format of HTTP/2 (RFC 9113)
headers      header blocks: decoded by ``hpack``, with a memory for the blocks that repeat; encoded ahead of time
messages     gRPC's messages inside the data: length prefix, compression, timeouts, status
connection   one client: its frames, streams and windows
stream       one call
tolerance    how often a client may do what only attackers do often

:mod:`perdure.rpc.grpc_server` listens, drains, and watches deadlines and silent clients.
"""
