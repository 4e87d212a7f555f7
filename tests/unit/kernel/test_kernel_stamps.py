"""What was stored last is there in the next life, whatever ended this one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from holdfast.kernel.stamps import Stamps


def test_a_stamp_is_left_to_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "cell.adverts"
    first = Stamps(path)
    slot = first.slot("VI_1")
    first.view[slot] = 42
    assert Stamps(path).left("VI_1") == 42
    assert Stamps(path).left("VI_2") is None


def test_a_stamp_stored_right_before_sigkill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "cell.adverts"
    pid = os.fork()
    if pid == 0:
        stamps = Stamps(path)
        slot = stamps.slot("VI_1")
        for number in range(1, 1001):
            stamps.view[slot] = number
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert Stamps(path).left("VI_1") == 1000


def test_a_life_that_stored_nothing_hands_on_what_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "cell.adverts"
    first = Stamps(path)
    first.view[first.slot("VI_1")] = 7
    second = Stamps(path)
    second.slot("VI_2")
    second.slot("VI_1")
    assert Stamps(path).left("VI_1") == 7


def test_hundreds_of_names_keep_their_numbers_while_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "cell.adverts"
    stamps = Stamps(path)
    for number in range(700):
        slot = stamps.slot(f"V{number}")
        stamps.view[slot] = number + 1
    assert [stamps.view[stamps.slot(f"V{number}")] for number in range(700)] == list(range(1, 701))
    again = Stamps(path)
    assert [again.left(f"V{number}") for number in range(700)] == list(range(1, 701))


def test_without_a_file_everything_works_and_nothing_is_left(tmp_path: Path) -> None:
    nowhere = Stamps(tmp_path / "missing" / "cell.adverts")
    nowhere.view[nowhere.slot("a")] = 5
    assert nowhere.view[nowhere.slot("a")] == 5
    assert Stamps(None).left("a") is None


def test_a_damaged_file_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    path = tmp_path / "cell.adverts"
    path.write_bytes(b"short")
    assert Stamps(path).left("a") is None


def test_after_a_clean_end_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cell.adverts"
    stamps = Stamps(path)
    stamps.view[stamps.slot("a")] = 5
    stamps.close()
    assert not path.exists()
