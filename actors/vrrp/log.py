"""The log lines about received packets, in the words that keepalived's users look for."""

from __future__ import annotations

from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.packet import PacketError, Reject
from holdfast.actors.vrrp.validation import Notice, Verdict


def rejected_line(instance: str, source: str, error: PacketError) -> str:
    """One line for a packet that does not count."""
    facts = error.facts
    match error.reject:
        case Reject.LENGTH:
            length, expected = int(facts.get("length", 0)), int(facts.get("expected", 0))
            size = "too long" if length > expected else "too short"
            what = f"vrrp packet from {source} {size}, length {length} and expect {expected}"
        case Reject.TTL:
            what = f"invalid TTL/HL from {source}. Received {facts.get('ttl')} and expect 255"
        case Reject.VERSION:
            what = (
                f"wrong VRRP version from {source}. Received {facts.get('version')} and expect {facts.get('expected')}"
            )
        case Reject.AUTH_TYPE | Reject.AUTH_MISMATCH:
            what = f"authentication type of {source} is not ours ({_list(error)})"
        case Reject.AUTH_FAILURE:
            what = f"the password of {source} is not ours"
        case Reject.INTERVAL:
            what = f"advertisement interval of {source} is not ours ({_list(error)}): adverts ignored"
        case Reject.CHECKSUM:
            what = f"wrong checksum from {source} ({_list(error)})"
        case Reject.DESTINATION:
            what = f"advert of {source} came by multicast where unicast is expected, or the other way round"
        case Reject.SOURCE:
            what = f"unicast source address {source} not a unicast peer"
        case _:
            what = f"packet from {source} ignored: {error.reject.value} ({_list(error)})"
    return f"({instance}) {what}"


def notice_line(instance: VrrpInstance, source: str, notice: Notice, verdict: Verdict) -> str:
    """One line for something odd in a packet that counts all the same."""
    match notice:
        case Notice.OLD_CHECKSUM:
            what = "Setting unicast VRRPv3 checksum to old version"
        case Notice.ADDRESS_LIST:
            what = f"the adverts of {source} have other addresses than ours: {', '.join(verdict.differing)}"
        case Notice.INTERVAL:
            ours, heard = instance.advert_interval_us // 10_000, (verdict.advert.interval or 0) // 10_000_000
            what = f"advertisement interval mismatch ours = {ours} centi-sec rcv'd={heard} centi-sec"
    return f"({instance.name}) {what}"


def _list(error: PacketError) -> str:
    return ", ".join(f"{key} {value}" for key, value in error.facts.items())
