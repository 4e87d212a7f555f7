"""A stranger: mutated BFD packets as fast as the machine sends them. Prints how many.

bfd_flood.py SOURCE DESTINATION FILE SECONDS: FILE has a discriminator a line, which the packets name.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from pathlib import Path

from holdfast.actors.bfd.packet import ControlPacket, State
from holdfast.kernel.udp_batch import Path as WirePath
from holdfast.kernel.udp_batch import RawUdpSender, Rows, SendGroup

GROUPS, SIZE = 40, 128


def mutated(chance: random.Random, number: int) -> bytes:
    """A packet that would do harm if it were believed, often with some bits turned, cut or added."""
    packet = ControlPacket(
        state=chance.choice(list(State)),
        my_discriminator=chance.randrange(1, 1 << 32),
        your_discriminator=chance.choice([number, number, 0]),
        detect_mult=chance.randrange(1, 256),
        desired_min_tx_us=chance.randrange(1 << 32),
        required_min_rx_us=chance.choice([0, 1, 1 << 31]),
        diagnostic=chance.randrange(32),
        poll=chance.random() < 0.3,
    )
    data = bytearray(packet.encode())
    for _ in range(chance.choice([0, 0, 1, 3])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        data = data[: chance.randrange(1, len(data))]
    elif chance.random() < 0.2:
        data += chance.randbytes(30)
    return bytes(data)


def main() -> None:
    source, destination = (socket.inet_aton(each) for each in sys.argv[1:3])
    numbers = [int(each) for each in Path(sys.argv[3]).read_text().split()]
    chance = random.Random(1)
    rows, groups = Rows(), []
    for _ in range(GROUPS):
        group = SendGroup(SIZE)
        for index in range(SIZE):
            path = WirePath(source, destination, chance.randrange(49152, 65536), 3784)
            row = rows.take(path)
            row.write(path.packet(mutated(chance, chance.choice(numbers))))
            group.put(index, row)
        group.count = SIZE
        groups.append(group)
    sender = RawUdpSender(socket.AF_INET)
    end = time.monotonic() + float(sys.argv[4])
    sent = 0
    while time.monotonic() < end:
        for group in groups:
            sent += SIZE - len(sender.send(group))
    print(sent)


if __name__ == "__main__":
    main()
