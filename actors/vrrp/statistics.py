"""What an instance has counted, under the names of keepalived's statistics (and of the VRRP MIBs)."""

from __future__ import annotations

import msgspec

from holdfast.actors.vrrp.packet import Reject


class Statistics(msgspec.Struct, kw_only=True):
    """Counters since the start, counted in place: an action for each advert would cost more than the rest."""

    advert_rcvd: int = 0
    advert_sent: int = 0
    become_master: int = 0
    release_master: int = 0
    packet_len_err: int = 0
    advert_interval_err: int = 0
    ip_ttl_err: int = 0
    invalid_type_rcvd: int = 0
    addr_list_err: int = 0
    invalid_authtype: int = 0
    authtype_mismatch: int = 0
    auth_failure: int = 0
    pri_zero_rcvd: int = 0
    pri_zero_sent: int = 0
    version_err: int = 0
    checksum_err: int = 0
    destination_err: int = 0
    unicast_source_err: int = 0
    owner_ignored: int = 0
    unknown_vrid: int = 0
    lower_priority_rcvd: int = 0
    stalls: int = 0

    def reject(self, kind: Reject) -> None:
        """One packet was refused for `kind`."""
        setattr(self, kind.value, getattr(self, kind.value) + 1)

    def clear(self) -> None:
        """Start again at zero (signal STATS_CLEAR)."""
        for name in self.__struct_fields__:
            setattr(self, name, 0)
