"""The process in which a plain class lives: a fresh interpreter for each version, and for each run that calls `fit`.

It answers one JSON line for each JSON line on a socket, and ends when the other side does.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from ml_backend import generations
from ml_backend.jsonable import sayable
from ml_backend.plain.traces import Traces
from ml_backend.predictions.answers import normalised
from ml_backend.sources import choose, load, locate
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.plain_state import Values

Message = dict[str, Any]

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS  # a class returns whatever it likes


def serve(descriptor: int, open_values: Callable[[str], Values]) -> NoReturn:
    """Answer until the socket is closed. ``open_values(uid)`` is where the class gets and sets."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of whoever started this
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)  # programs that the class starts may outlive this process
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, messages), name="listener", daemon=True).start()
    held: _Held | None = None
    while True:
        order = orjson.loads(messages.get())
        try:
            if held is None:
                held = _Held(order, open_values(order["uid"]))
                answer: object = held.who()
            else:
                answer = getattr(held, order.pop("do"))(**order)
            said = orjson.dumps({"ok": answer}, default=str, option=_OPTIONS)
        except BaseException as error:
            what, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
            said = orjson.dumps({"error": sayable(what), "trace": sayable(trace[-20_000:])})
        channel.sendall(said + b"\n")


def _listen(channel: socket.socket, messages: queue.SimpleQueue[bytes]) -> None:
    with channel.makefile("rb") as lines:
        for line in lines:
            messages.put(line)
    # Whoever asked is gone, killed perhaps: nothing that is done here would reach anybody.
    os._exit(0)


class _Held:
    """The class and what it needs; made by the first message."""

    def __init__(self, order: Message, values: Values) -> None:
        source = locate(order["model"])
        self.generation = generations.generation_of(source.tree())
        values.given["extra_params"] = orjson.dumps(order["params"]).decode()
        generations.provide(self.generation, values)
        module = load(source, alone=True)
        bare = generations.bare_class() if not source.wanted else None
        self._class = bare or choose(module, source, generations.BASE)
        self._traces = Traces(values)
        self._project = str(id_of(order["uid"]))
        self._output = order["output"]
        self._kept: tuple[str, Any] | None = None
        self._config: str = order["label_config"]
        self._of(self._config)

    def who(self) -> Message:
        """What it is called, and the version that it gives itself."""
        return {"class": self._class.__name__, "version": generations.own_version(self._of(self._config))}

    def predict(self, tasks: list[Message], label_config: str, context: Message | None) -> object:
        """A list of predictions for each task."""
        answer = generations.predict(self._of(label_config or self._config), tasks, context)
        return normalised([] if answer is None else answer, len(tasks), "")

    def fit(self, event: str, data: Message, label_config: str, job_id: str, workdir: str) -> Message:
        """Call its `fit`; ``output`` is what it returned, where that counts, ``left`` whether it left anything."""
        instance = self._of(label_config or self._config, fresh=True)
        self._kept = None
        with self._traces:
            made = generations.fit(instance, self.generation, event, data, job_id=job_id, workdir=workdir)
        output = {**made, "job_id": job_id} if isinstance(made, dict) and made and self.generation == 1 else None
        self._output = output or self._output
        left = self._traces.left or bool(output)
        return {"output": output, "version": generations.own_version(instance), "left": left}

    def _of(self, label_config: str, *, fresh: bool = False) -> Any:  # noqa: ANN401 - anybody's class
        keeps = generations.lives_for_a_version(self.generation) and not fresh
        if keeps and self._kept is not None and self._kept[0] == label_config:
            return self._kept[1]
        made = generations.make(self._class, self.generation, self._project, label_config, self._output)
        self._kept = (label_config, made) if keeps else None
        return made
