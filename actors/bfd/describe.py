"""Sessions in words: for `holdfast status` and for the dump."""

from __future__ import annotations

import errno
import os
import socket
import time

from holdfast.actors.bfd.engine import Engine
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.messages import BfdSession
from holdfast.actors.bfd.packet import diagnostic_word
from holdfast.actors.bfd.session_actor import state_word
from holdfast.actors.runtime.machine import US
from holdfast.bus.messages import Reason


def describe(lane: Lane, reason: Reason | None) -> BfdSession:
    """The session as it is now."""
    machine, spec = lane.machine, lane.spec
    now = time.monotonic_ns()
    path = lane.path
    return BfdSession(
        session=spec.name,
        neighbor=spec.neighbor_text,
        source="" if path is None else socket.inet_ntop(lane.family, path.source),
        interface=spec.interface,
        multihop=spec.multihop,
        state=state_word(machine.state),
        remote_state=state_word(machine.remote_state),
        local_discriminator=machine.local_discriminator,
        remote_discriminator=machine.remote_discriminator,
        local_diagnostic=diagnostic_word(machine.local_diagnostic),
        remote_diagnostic=diagnostic_word(machine.remote_diagnostic),
        transmit_us=machine.transmit_interval_us if lane.group is not None else 0,
        receive_us=machine.receive_interval_us,
        detection_us=machine.detection // US,
        multiplier=spec.config.detect_mult,
        remote_multiplier=machine.remote_mult,
        remote_min_rx_us=machine.remote_min_rx_us,
        remote_min_tx_us=machine.remote_min_tx_us,
        remote_min_echo_rx_us=machine.remote_min_echo_rx_us,
        echo_us=machine.echo_interval_us,
        polling=machine.polling,
        remote_demand=machine.remote_demand,
        authentication="none" if spec.auth_type is None else spec.auth_type.name.lower().replace("_", "-"),
        packets_in=machine.heard,
        packets_out=lane.packets_out,
        send_errors=lane.send_errors,
        last_send_error=_error_text(lane.last_send_errno),
        last_packet_s=None if machine.seen is None else (now - machine.seen) / 1e9,
        longest_gap_s=machine.longest_gap / 1e9,
        falterings=lane.falterings,
        since_s=(now - lane.last_change_at) / 1e9,
        ups=lane.ups,
        downs=lane.downs,
        tracker_up=machine.tracker_up,
        rejected={reject.value: count for reject, count in lane.rejected.items()},
        reason=reason,
    )


def _error_text(number: int) -> str:
    return "" if not number else f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"


def dump_text(engine: Engine) -> str:
    """All sessions, a block each, in the order of the configuration."""
    blocks = []
    for lane in engine.lanes.values():
        view = describe(lane, None)
        lines = [f" BFD Instance = {view.session}"]
        for name in view.__struct_fields__:
            if name not in ("session", "reason"):
                value = getattr(view, name)
                shown = f"0x{value:08x}" if name.endswith("discriminator") else value
                lines.append(f"   {name.replace('_', ' ')} = {shown}")
        blocks.append("\n".join(lines))
    rejected = ", ".join(f"{reject.value} {count}" for reject, count in engine.rejected.items()) or "none"
    return "------< BFD Topology >------\n" + "\n".join([*blocks, f" Packets for no session: {rejected}"]) + "\n"
