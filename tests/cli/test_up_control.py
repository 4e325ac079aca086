"""The socket between `apply` and `up`."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from trimode_local.control_socket import Control, Order, send, socket_path
from trimode_local.errors import BadInput


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the path of a Unix socket has 107 characters."""
    with tempfile.TemporaryDirectory(prefix="tm-") as name:
        yield Path(name)


@pytest.fixture
def running(folder: Path) -> Iterator[Path]:
    """An `up` that answers each order with its own words."""
    inbox: SimpleQueue[Order | None] = SimpleQueue()
    control = Control(folder / "c" / "tiny.sock", inbox)

    def answer() -> None:
        while (order := inbox.get()) is not None:
            order.answer(heard=order.name, resource=order.resource)

    thread = threading.Thread(target=answer)
    thread.start()
    yield control.path
    inbox.put(None)
    thread.join()
    control.close()
    assert not control.path.exists()


def test_an_order_is_answered(running: Path) -> None:
    assert send(running, {"order": "apply", "resource": {"a": 1}}) == {"heard": "apply", "resource": {"a": 1}}


def test_what_is_no_order_is_refused_and_the_next_one_served(running: Path) -> None:
    for garbage in (b"nonsense\n", b"[1]\n", b"{}\n", b"\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(running))
            connection.sendall(garbage)
            assert b"expected a JSON line" in connection.recv(4096)
    assert send(running, {"order": "status"})["heard"] == "status"


def test_two_of_one_name_cannot_run(running: Path) -> None:
    with pytest.raises(BadInput, match="'tiny' is already up"):
        Control(running, SimpleQueue())
    assert send(running, {"order": "status"})["heard"] == "status"


def test_a_socket_left_by_a_killed_process_is_taken_over(folder: Path) -> None:
    path = folder / "c" / "tiny.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    Control(path, SimpleQueue()).close()


def test_nobody_there(folder: Path) -> None:
    with pytest.raises(BadInput, match="no `trimode up` of 'tiny' runs") as error:
        send(folder / "tiny.sock", {"order": "status"})
    assert "trimode up -f" in error.value.hint


def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    (folder / "c").mkdir(mode=0o755)
    with pytest.raises(BadInput, match="nobody else may enter"):
        Control(folder / "c" / "tiny.sock", SimpleQueue())


def test_the_socket_is_for_its_owner_alone(running: Path) -> None:
    assert running.stat().st_mode & 0o777 == 0o600
    assert running.parent.stat().st_mode & 0o777 == 0o700


def test_where_the_socket_lies(folder: Path) -> None:
    assert socket_path("a", {"XDG_RUNTIME_DIR": str(folder)}) == folder / "trimode" / "a.sock"
    assert socket_path("a", {"XDG_RUNTIME_DIR": "/nowhere/at/all"}).parent.parent == Path(tempfile.gettempdir())
