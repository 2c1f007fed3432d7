"""Answering the commands of other nodes, and sending ours."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from node import events as ev
from node.clean import clean, clean_tree
from node.errors import PlainError
from node.network.messages import JsonProtocol, RequestFailed
from node.swarm import commands as cmd

Emit = Callable[[ev.Event], None]
Handler = Callable[[Any, str], Awaitable[dict[str, Any]]]
TIMEOUT_S = 30.0
SUMMARY_CHARS = 160
REPEATED = "again"
"""Origin of what a node repeats by itself: not worth a line of the log each time."""


class Commands:
    """Both sides of `/json-message/1.0` for one node.

    `handlers` maps a command's name to `async (params, peer id) -> result`; a PlainError it raises
    becomes the error answer.
    """

    def __init__(
        self,
        protocol: JsonProtocol,
        own_id: str,
        emit: Emit,
        handlers: dict[str, Handler],
    ) -> None:
        self._protocol = protocol
        self._own_id = own_id
        self._emit = emit
        self._handlers = handlers
        self._ids = cmd.RequestIds()
        self._replays = cmd.Replays()
        protocol.serve(self.answer)

    # ------------------------------------------------------------ serving

    async def answer(self, raw: bytes | None, peer_id: str) -> bytes:
        """Check and serve one request; always an answer, never an exception."""
        now = time.time()
        try:
            message = cmd.parse(raw, peer_id, now)
        except cmd.MessageRefusedError as error:
            return self._refused(peer_id, error, "", "")
        if isinstance(message, cmd.PlainMessage):
            return self._plain(message, peer_id, now)
        try:
            if message.to not in (None, "", self._own_id):
                raise cmd.MessageRefusedError("to", "names another node")
            params = cmd.parse_params(message.command, message.params)
            if not self._replays.is_new(peer_id, message.request_id, now):
                raise cmd.MessageRefusedError("request_id", "was used before")
        except cmd.MessageRefusedError as error:
            return self._refused(peer_id, error, message.command, message.request_id)
        return await self._serve(message, params, peer_id)

    def _plain(self, message: cmd.PlainMessage, peer_id: str, now: float) -> bytes:
        self._emit(
            ev.MessageReceived(at=now, peer_id=peer_id, text=clean(message.message, cmd.MAX_TEXT))
        )
        return msgspec.json.encode(
            {"from": self._own_id, "message": "received", "timestamp": int(now)}
        )

    async def _serve(self, message: cmd.Command, params: msgspec.Struct, peer_id: str) -> bytes:
        request_id = clean(message.request_id, 128)
        start = time.perf_counter()
        self._emit(
            ev.CommandReceived(
                at=time.time(),
                request_id=request_id,
                command=message.command,
                peer_id=peer_id,
                summary=_summary(msgspec.to_builtins(params)),
            )
        )
        result: dict[str, Any] | None = None
        problem: str | None = None
        try:
            with trio.fail_after(TIMEOUT_S):
                result = await self._handlers[message.command](params, peer_id)
        except PlainError as error:
            problem = str(error)
        except trio.TooSlowError:
            problem = f"The node did not finish {message.command} within {TIMEOUT_S:.0f} s."
        except Exception as error:
            # A fault of ours: the peer gets an answer, the operator a problem, the node lives.
            problem = f"{message.command} failed inside the node."
            self._emit(
                ev.Problem(
                    at=time.time(),
                    level="error",
                    tag="COMMAND",
                    sentence=f"Answering {message.command} failed inside this node.",
                    next_step="Export a bug report with 'e'.",
                    detail=clean(repr(error), 2000),
                )
            )
        status = "success" if problem is None else "error"
        self._emit(
            ev.CommandServed(
                at=time.time(),
                request_id=request_id,
                command=message.command,
                peer_id=peer_id,
                status="success" if problem is None else "error",
                duration_ms=round((time.perf_counter() - start) * 1000, 1),
                summary=_summary(result) if problem is None else clean(problem, SUMMARY_CHARS),
            )
        )
        return self._response(message.command, message.request_id, peer_id, status, result, problem)

    def _refused(
        self, peer_id: str, error: cmd.MessageRefusedError, command: str, request_id: str
    ) -> bytes:
        self._emit(
            ev.MessageRefused(
                at=time.time(),
                peer_id=peer_id,
                field=clean(error.field, 64),
                reason=clean(error.reason, 200),
            )
        )
        text = f"Input validation failed: {error.field}: {error.reason}"
        return self._response(command, request_id, peer_id, "error", None, clean(text, 400))

    def _response(
        self,
        command: str,
        request_id: str,
        to: str,
        status: str,
        result: dict[str, Any] | None,
        error: str | None,
    ) -> bytes:
        return cmd.encode_response(
            cmd.Response(
                command=command,
                request_id=request_id,
                from_=self._own_id,
                to=to,
                timestamp=int(time.time()),
                status=status,
                result=result,
                error=error,
            )
        )

    # ------------------------------------------------------------ sending

    async def send(
        self,
        peer_id: str,
        command: str,
        params: dict[str, Any],
        *,
        origin: str = "node",
        timeout: float = TIMEOUT_S,
        raw_result: bool = False,
    ) -> dict[str, Any]:
        """Send a command; the answer as `{peer_id, status, duration_ms, result?, error?}`.

        Never raises for what the peer does: a refusal and a timeout are answers too. `result` is
        cleaned for the screen; with `raw_result` it is also there as it came, under `raw`.
        """
        cmd.parse_params(command, params)
        request_id = self._ids.next()
        self._emit(
            ev.CommandSent(
                at=time.time(),
                request_id=request_id,
                command=command,
                to=peer_id,
                summary=_summary(params),
                origin=origin,
            )
        )
        body = cmd.encode_command(
            cmd.Command(
                command=command,
                request_id=request_id,
                from_=self._own_id,
                to=peer_id,
                timestamp=int(time.time()),
                params=params,
            )
        )
        answer: dict[str, Any] = {"peer_id": peer_id, "command": command}
        result: dict[str, Any] | None = None
        try:
            raw, took = await self._protocol.request(peer_id, body, timeout)
            response = cmd.parse_response(raw)
            if response.request_id != request_id:
                raise cmd.MessageRefusedError("request_id", "is not the one asked with")
            answer["status"] = response.status
            answer["duration_ms"] = round(took, 1)
            result = response.result
            if result is not None:
                answer["result"] = clean_tree(result, limit=512, items=256)
            if response.error:
                answer["error"] = clean(response.error, 512)
        except RequestFailed as error:
            answer["status"] = "timeout" if error.timeout else "error"
            answer["error"] = f"No answer: {error.reason}."
        except cmd.MessageRefusedError as error:
            answer["status"] = "error"
            answer["error"] = f"The answer was refused: {error.field} {error.reason}."
        self._settled(request_id, command, answer)
        if raw_result and result is not None:
            answer["raw"] = result
        return answer

    async def message(
        self, peer_id: str, text: str, *, origin: str = "node", timeout: float = TIMEOUT_S
    ) -> dict[str, Any]:
        """Send a plain text message; the answer like `send`'s."""
        request_id = self._ids.next()
        now = time.time()
        self._emit(
            ev.CommandSent(
                at=now,
                request_id=request_id,
                command="MESSAGE",
                to=peer_id,
                summary=clean(text, SUMMARY_CHARS),
                origin=origin,
            )
        )
        body = msgspec.json.encode(
            cmd.PlainMessage(
                from_=self._own_id,
                message=text[: cmd.MAX_TEXT],
                timestamp=int(now),
                send_time_ms=round(now * 1000),
            )
        )
        answer: dict[str, Any] = {"peer_id": peer_id, "command": "MESSAGE"}
        try:
            raw, took = await self._protocol.request(peer_id, body, timeout)
            reply = msgspec.json.decode(raw, type=dict[str, Any])
            refused = reply.get("error")
            answer["status"] = "error" if refused else "success"
            answer["duration_ms"] = round(took, 1)
            if refused:
                answer["error"] = clean(refused, 512)
            else:
                answer["result"] = {"message": clean(reply.get("message", ""), SUMMARY_CHARS)}
        except RequestFailed as error:
            answer["status"] = "timeout" if error.timeout else "error"
            answer["error"] = f"No answer: {error.reason}."
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            answer["status"] = "error"
            answer["error"] = "The answer is not JSON."
        self._settled(request_id, "MESSAGE", answer)
        return answer

    def _settled(self, request_id: str, command: str, answer: dict[str, Any]) -> None:
        summary = answer.get("error") or _summary(answer.get("result"))
        self._emit(
            ev.CommandAnswered(
                at=time.time(),
                request_id=request_id,
                command=command,
                peer_id=answer["peer_id"],
                status=answer["status"],
                duration_ms=answer.get("duration_ms", 0.0),
                summary=clean(summary, SUMMARY_CHARS),
                detail=clean(msgspec.json.encode(answer).decode("utf-8"), 4096),
            )
        )


def _summary(value: Any) -> str:
    """A result or params as one short line: `shard_id=1 status=loaded`."""
    if not isinstance(value, dict) or not value:
        return ""
    parts = []
    for name, item in list(value.items())[:8]:
        if isinstance(item, dict | list | tuple):
            parts.append(f"{name}({len(item)})")
        elif item not in ("", None):
            parts.append(f"{name}={item}")
    return clean(" ".join(parts), SUMMARY_CHARS)
