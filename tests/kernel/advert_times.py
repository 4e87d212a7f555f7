"""When VRRP adverts of one router pass an interface: run inside a namespace, prints the ns of each until killed.

advert_times.py INTERFACE SOURCE

The time is the kernel's, of the packet's arrival, or of its leaving when this is the sender's own namespace: how busy
this process's processor is does not matter.
"""

from __future__ import annotations

import socket
import struct
import sys

SO_TIMESTAMPNS = 35
ETH_P_ALL = 3
PACKET_MULTICAST, PACKET_OUTGOING = 2, 4
VRRP = 112


def main() -> None:
    """Reads until it is killed."""
    interface, source = sys.argv[1], socket.inet_aton(sys.argv[2])
    # With all protocols outgoing packets are seen too; without a link header both look the same.
    watched = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    watched.bind((interface, ETH_P_ALL))
    watched.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    print("ready", flush=True)
    while True:
        packet, ancillary, _, address = watched.recvmsg(2048, 256)
        if address[2] not in (PACKET_MULTICAST, PACKET_OUTGOING) or packet[9] != VRRP or packet[12:16] != source:
            continue
        (stamp,) = (data for level, kind, data in ancillary if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS))
        seconds, nanoseconds = struct.unpack("=qq", stamp)
        print(seconds * 1_000_000_000 + nanoseconds, flush=True)


if __name__ == "__main__":
    main()
