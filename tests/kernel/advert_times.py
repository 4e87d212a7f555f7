"""When VRRP adverts arrive on an interface: run inside a namespace, prints the monotonic ns of each until killed.

advert_times.py INTERFACE SOURCE
"""

from __future__ import annotations

import socket
import struct
import sys
import time


def main() -> None:
    """Reads until it is killed."""
    interface, source = sys.argv[1:3]
    watched = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
    group = socket.inet_aton("224.0.0.18") + struct.pack("=4si", b"\0\0\0\0", socket.if_nametoindex(interface))
    watched.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    print("ready", flush=True)
    while True:
        _, address = watched.recvfrom(2048)
        if address[0] == source:
            print(time.monotonic_ns(), flush=True)


if __name__ == "__main__":
    main()
