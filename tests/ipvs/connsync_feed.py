"""Puts made-up connections into the table of the network namespace it runs in, by way of the sync0 interface there.

python connsync_feed.py COUNT
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator

from holdfast.actors.connsync.syncproto import Entry, encode_entry, join
from holdfast.kernel.connsync import GROUP, PORT, SYNC_ID

VIRTUAL, REAL = socket.inet_aton("10.2.0.100"), socket.inet_aton("10.3.0.11")


def entries(count: int) -> Iterator[bytes]:
    """Established connections of clients 172.16.0.0 and up, 50,000 ports each."""
    for number in range(count):
        client, port = divmod(number, 50_000)
        yield encode_entry(
            Entry(
                protocol=6,
                client=struct.pack("!I", 0xAC100000 + client),
                client_port=10_000 + port,
                virtual=VIRTUAL,
                virtual_port=80,
                destination=REAL,
                destination_port=80,
                state=1,
                timeout_s=3600,
            )
        )


def main() -> None:
    """Sends, with a pause now and then for the kernel's thread."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("169.254.81.1", 0))
    index = socket.if_nametoindex("sync0")
    request = struct.pack("=4s4si", socket.inet_aton(GROUP), socket.inet_aton("169.254.81.1"), index)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
    for number, message in enumerate(join(entries(int(sys.argv[1])), SYNC_ID)):
        sender.sendto(message, (GROUP, PORT))
        if number % 50 == 49:
            time.sleep(0.005)


if __name__ == "__main__":
    main()
