"""Tests messages between workers, and the checkpoint that they agree on."""

import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nets.importers.training_checkpoint import MANIFEST_NAME, VERSION
from training.workers import meeting
from training.workers.meeting import agreed_checkpoint, check_same_start, exchange


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]
    for opened in sockets:
        opened.close()
    return addresses


def run_workers(work, count=3):
    """Runs `work(exchange)` in each worker, and returns the results or errors."""
    addresses = free_addresses(count)

    def worker(index):
        try:
            return work(index, lambda message: exchange(addresses, index, message, patience=10))
        except (ValueError, OSError) as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(worker, range(count)))


def test_every_worker_gets_all_messages_of_each_round():
    def work(index, meet):
        if index == 0:
            time.sleep(0.3)  # The others wait for the chief.
        return [meet({"worker": index, "round": number}) for number in range(5)]

    expected = [[{"worker": index, "round": number} for index in range(3)] for number in range(5)]
    assert run_workers(work) == [expected] * 3


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0\r\n"])
def test_an_occupied_port_of_the_chief_is_an_error(monkeypatch, banner):
    monkeypatch.setattr(meeting, "_ANSWER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = [f"127.0.0.1:{server.getsockname()[1]}", *free_addresses(1)]

        def serve():
            connection, _ = server.accept()
            connection.sendall(banner)
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        for index in (1, 0):
            with pytest.raises(OSError, match=addresses[0]):
                exchange(addresses, index, "")
        thread.join()


def test_an_occupied_port_of_another_worker_is_an_error_on_all():
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = [*free_addresses(1), f"127.0.0.1:{server.getsockname()[1]}", *free_addresses(1)]

        def worker(index):
            with pytest.raises(OSError, match=f"worker 1: {addresses[1]}"):
                exchange(addresses, index, "")

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(worker, range(3)))


def test_missing_workers_are_named():
    addresses = free_addresses(2)
    with pytest.raises(OSError, match=rf"worker 1 \({addresses[1]}\)"):
        exchange(addresses, 0, "", patience=0.2)
    with pytest.raises(OSError, match=addresses[0]):
        exchange(addresses, 1, "", patience=0.2)


def test_a_chief_that_ends_is_named():
    addresses = free_addresses(3)

    def worker(index):
        with pytest.raises(OSError, match=r"worker 2" if index == 0 else r"worker 0 .* has ended"):
            exchange(addresses, index, "", patience=0.5)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(worker, range(2)))


def test_messages_of_other_programs_are_ignored(monkeypatch):
    monkeypatch.setattr(meeting, "_MESSAGE", 0.2)
    addresses = free_addresses(2)
    with ThreadPoolExecutor(2) as pool:
        chief = pool.submit(exchange, addresses, 0, "a")
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"worker": 7}\n', b""):
            with meeting._connect(addresses[0], 10) as connection:
                connection.sendall(sent)
                connection.recv(100)
        worker = pool.submit(exchange, addresses, 1, "b")
        assert chief.result() == worker.result() == ["a", "b"]


def write_checkpoint(folder, step, architecture="ir32"):
    """Writes a checkpoint without weights."""
    net = {"architecture": architecture, "image_size": [16, 16], "embedding_size": 512, "seed": 0}
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    manifest = {"version": VERSION, "step": step, "sha256": {}, "net": net}
    (path / MANIFEST_NAME).write_text(json.dumps(manifest))


def agree(folders):
    return run_workers(lambda index, meet: agreed_checkpoint(folders[index], meet), len(folders))


def test_workers_with_the_same_checkpoints_resume_from_the_newest(tmp_path):
    assert agree([tmp_path] * 3) == [None] * 3
    for step in (8, 24):
        write_checkpoint(tmp_path / "a", step)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    received = agree([tmp_path / "a", tmp_path / "b"])
    assert [(folder.parent.name, manifest["step"]) for folder, manifest in received] == [("a", 24), ("b", 24)]


def test_workers_with_different_checkpoints_take_the_newest_in_common(tmp_path, caplog):
    for step in (8, 24, 32, 40):
        write_checkpoint(tmp_path / "a", step)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "step_00000040")
    # A checkpoint of another run, and a damaged one.
    shutil.rmtree(tmp_path / "b" / "step_00000032")
    write_checkpoint(tmp_path / "b", 32, architecture="ir50")
    (tmp_path / "a" / "step_00000024" / MANIFEST_NAME).write_text("{")
    received = agree([tmp_path / "a", tmp_path / "b"])
    assert [(folder.parent.name, manifest["step"]) for folder, manifest in received] == [("a", 8), ("b", 8)]
    assert "worker 0: step 40, SHA-256 " in caplog.text and "worker 1: step 32, SHA-256 " in caplog.text


@pytest.mark.parametrize("other", ["nothing", "another run", "damaged"])
def test_workers_without_a_common_checkpoint_stop(tmp_path, other):
    write_checkpoint(tmp_path / "a", 40)
    (tmp_path / "b").mkdir()
    if other != "nothing":
        write_checkpoint(tmp_path / "b", 40, architecture="ir50")
    if other == "damaged":
        (tmp_path / "b" / "step_00000040" / MANIFEST_NAME).write_text("{")
    has = {"nothing": "no checkpoint", "another run": "step 40", "damaged": f"{tmp_path / 'b'}"}[other]
    for error in agree([tmp_path / "a", tmp_path / "b"]):
        assert isinstance(error, ValueError)
        assert "worker 0: step 40, SHA-256 " in str(error) and f"worker 1: {has}" in str(error)


def test_workers_with_different_start_models_stop():
    def missing():
        raise FileNotFoundError("nowhere: no such model")

    def work(digests):
        return lambda index, meet: check_same_start(digests[index], meet)

    assert run_workers(work([lambda: "a"] * 2), 2) == [None, None]
    for one in (missing, lambda: "", lambda: "b"):
        for error in run_workers(work([lambda: "a", one]), 2):
            assert isinstance(error, ValueError) and "worker 0: a; worker 1: " in str(error)
