"""Exchanges messages between workers before TensorFlow connects them, so that all start with one model.

Imports no TensorFlow.
"""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nets.importers.training_checkpoint import (
    MANIFEST_NAME,
    checkpoint_folders,
    newest_checkpoint,
    read_checkpoint,
    sha256,
)

logger = logging.getLogger(__name__)

Exchange = Callable[[Any], list[Any]]

PATIENCE = 600.0  # seconds within which all workers have to start
_GREETING = b"margin-centre-face worker 0\n"
_ANSWER = 15.0  # seconds within which the chief has to greet
_MESSAGE = 5.0  # seconds within which a worker has to send its message
_MAX_BYTES = 1_000_000  # longest message


def exchange(addresses: Sequence[str], index: int, message: Any, patience: float = PATIENCE) -> list[Any]:
    """Sends a message to all workers, and returns the messages of all workers.

    The workers connect to the port of worker 0, which TensorFlow uses later.

    Args:
        addresses: `host:port` of all workers.
        index: number of this worker.
        message: a value that JSON can hold.
        patience: seconds to wait for workers that have not started yet.

    Returns:
        The messages, in the order of the workers.

    Raises:
        OSError: a port is in use, or a worker does not start or has ended.
    """
    if index == 0:
        return _lead(addresses, message, patience)
    return _join(addresses, index, message, patience)


def _lead(addresses, message, patience):
    deadline = time.monotonic() + patience
    messages, connections = {0: message}, {}
    with contextlib.ExitStack() as stack:
        with _listen(addresses[0]) as server:
            while len(messages) < len(addresses):
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    missing = sorted(set(range(len(addresses))) - set(messages))
                    named = ", ".join(f"{number} ({addresses[number]})" for number in missing)
                    raise OSError(
                        f"no message from worker {named}. Start all workers, and see their logs."
                    ) from None
                stack.enter_context(connection)
                with contextlib.suppress(
                    OSError, ValueError, KeyError, TypeError
                ):  # It may be another program.
                    connection.settimeout(_MESSAGE)
                    connection.sendall(_GREETING)
                    received = json.loads(_read_line(connection))
                    number = int(received["worker"])
                    if 0 < number < len(addresses) and number not in messages:
                        connections[number], messages[number] = connection, received
        # The port is closed before any worker gets its answer, so that its next exchange cannot connect to
        # it.
        problems = [
            f"worker {number}: {messages[number]['problem']}"
            for number in sorted(connections)
            if messages[number]["problem"]
        ]
        ordered = [message, *(messages[number]["message"] for number in range(1, len(addresses)))]
        answer = json.dumps({"problem": "; ".join(problems), "messages": ordered}).encode() + b"\n"
        for connection in connections.values():
            with contextlib.suppress(OSError):  # This worker has ended. TensorFlow will notice.
                connection.sendall(answer)
    return _messages(answer)


def _join(addresses, index, message, patience):
    problem = ""
    try:
        _listen(addresses[index]).close()
    except OSError as error:
        problem = str(error)
    sent = json.dumps({"worker": index, "problem": problem, "message": message}).encode() + b"\n"
    with _connect(addresses[0], patience) as connection:
        greeting = answer = b""
        with contextlib.suppress(OSError):
            connection.settimeout(_ANSWER)
            greeting = _read_line(connection)
        if greeting != _GREETING:
            raise OSError(
                f"{addresses[0]}, the address of worker 0: another program uses this port. "
                "End it, or give another port."
            )
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            connection.settimeout(patience + _ANSWER)
            answer = _read_line(connection)
    if not answer:
        raise OSError(f"worker 0 ({addresses[0]}) has ended. Its log says why.")
    return _messages(answer)


def _listen(address):
    _, port = _host_and_port(address)
    try:
        return socket.create_server(("", port))
    except OSError as error:
        advice = "End the program that uses it, or give another port."
        problem = os.strerror(error.errno) if error.errno else error
        raise OSError(f"{address}: cannot listen on port {port}: {problem}. {advice}") from None


def _connect(address, patience):
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(_host_and_port(address), timeout=_ANSWER)
        except OSError as error:  # Worker 0 may start later.
            if time.monotonic() > deadline:
                problem = f"{address}, the address of worker 0: {error.strerror or error}"
                raise OSError(f"{problem}. Start all workers, and see its log.") from None
        time.sleep(0.2)


def _host_and_port(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _read_line(connection):
    """Returns a line, or the part of it that arrived before the other side closed the connection."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _MAX_BYTES:
        received = connection.recv(65536)
        if not received:
            break
        line += received
    return line


def _messages(answer):
    received = json.loads(answer)
    if received["problem"]:
        raise OSError(received["problem"])
    return received["messages"]


def agreed_checkpoint(path: Path, exchange: Exchange) -> tuple[Path, dict[str, Any]] | None:
    """Returns the newest checkpoint at a path that all workers can read, with its manifest.

    Args:
        path: a folder of checkpoints. The workers share it, or each has a copy.
        exchange: function that sends a message to all workers and returns their messages.

    Returns:
        `None` if no worker has any checkpoint.

    Raises:
        ValueError: the workers have checkpoints, but none in common. The message lists them.
    """
    newest, problem = None, ""
    try:
        newest = newest_checkpoint(path)
    except ValueError as error:
        problem = str(error)
    mine = [_identity(*newest)] if newest else []
    states = exchange({"newest": mine, "problem": problem})
    if not problem and all(state == states[0] for state in states):
        return newest
    readable = {tuple(_identity(*checkpoint)): checkpoint for checkpoint in _readable(path)}
    common = set.intersection(*(set(map(tuple, one)) for one in exchange(list(readable))))
    listed = "; ".join(f"worker {number}: {_describe(state)}" for number, state in enumerate(states))
    if not common:
        raise ValueError(
            f"{path}: the workers have no checkpoint in common ({listed}). "
            "Copy the newest one to every worker, or share the folder."
        )
    chosen = max(common)
    logger.warning(
        "%s: the workers have different checkpoints (%s). All resume from step %d, the newest in common.",
        *(path, listed, chosen[0]),
    )
    return readable[chosen]


def check_same_start(describe: Callable[[], str], exchange: Exchange) -> None:
    """Raises `ValueError` unless all workers start from the same model.

    Args:
        describe: function that returns the digest of the model of this worker, or an empty string.
        exchange: function that sends a message to all workers and returns their messages.
    """
    try:
        mine = describe()
    except (ValueError, OSError) as error:
        mine = str(error)
    models = exchange(mine)
    if len(set(models)) > 1:
        listed = "; ".join(f"worker {number}: {model or 'no model'}" for number, model in enumerate(models))
        raise ValueError(
            f"the workers start from different models ({listed}). Give all of them the same one."
        )


def _readable(path):
    for folder in checkpoint_folders(path):
        with contextlib.suppress(ValueError):
            yield folder, read_checkpoint(folder)


def _identity(folder, manifest):
    """Returns the step, and the digest of the manifest, which holds the digests of all other files."""
    return [manifest["step"], sha256(folder / MANIFEST_NAME)]


def _describe(state):
    if state["problem"]:
        return state["problem"]
    return (
        f"step {state['newest'][0][0]}, SHA-256 {state['newest'][0][1][:12]}"
        if state["newest"]
        else "no checkpoint"
    )
