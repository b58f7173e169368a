"""A slow link to a server on the loopback interface: connections to the printed port arrive at the server after a delay
and at no more than a rate, in each direction and for all connections together.

Usage: link.py SERVER_PORT MEGABIT_PER_SECOND ROUND_TRIP_MS. Prints its port; ends when its standard input does.
"""
import asyncio
import sys
import time

server, rate, delay = int(sys.argv[1]), float(sys.argv[2]) * 1e6 / 8, float(sys.argv[3]) / 2e3
# In flight per connection, as a sender with a large TCP window has it.
WINDOW = 16 << 20
PIECE = 64 << 10


class Direction:
    free = 0.0

    def departure(self, length):
        """When the last of these bytes has left, after all bytes before it."""
        self.free = max(self.free, time.monotonic()) + length / rate
        return self.free


async def carry(reader, writer, direction):
    loop, in_flight, room = asyncio.get_running_loop(), 0, asyncio.Event()

    def arrive(data):
        nonlocal in_flight
        in_flight -= len(data)
        room.set()
        if data:
            writer.write(data)
        elif writer.can_write_eof():
            writer.write_eof()

    try:
        while True:
            data = await reader.read(PIECE)
            in_flight += len(data)
            departure = direction.departure(len(data))
            loop.call_at(loop.time() + departure - time.monotonic() + delay, arrive, data)
            if not data:
                return
            while in_flight > WINDOW:
                room.clear()
                await room.wait()
            # The sender notices the rate: nothing is read before the link has room for it.
            await asyncio.sleep(max(0, departure - time.monotonic() - delay))
    except (ConnectionError, OSError):
        writer.close()


async def main():
    up, down = Direction(), Direction()

    async def connected(reader, writer):
        # No delay: real servers keep connections open, but the server of the tests closes each one.
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server)
        await asyncio.gather(carry(reader, far_writer, up), carry(far_reader, writer, down))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, limit=PIECE)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
