"""The broker's two request-response nodes: ``<queue>/$management`` and ``$cbs``.

Source: learn.microsoft.com, "AMQP 1.0 in Azure Service Bus: request-response-based operations", and the
claims-based security section of the protocol guide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from worker.local.amqp.message import Message, encode_message, response
from worker.local.amqp.types import Array, DecodeError, Int, Symbol, Timestamp
from worker.local.queues.namespace import LOCK_LOST, SERVER_BUSY, Namespace, Token
from worker.local.queues.peek_lock import LockNotHeld, Queue

MAX_PEEK_BYTES = 256 * 1024
_VENDOR = "com.microsoft:"
_STATUS = {
    LOCK_LOST: 410,
    SERVER_BUSY: 503,
    _VENDOR + "timeout": 408,
    "amqp:not-found": 404,
    "amqp:unauthorized-access": 401,
    "amqp:not-implemented": 501,
    "amqp:decode-error": 400,
}
_Handler = Callable[[Queue, dict[Any, Any]], dict[str, Any] | None]


def put_token(namespace: Namespace, request: Message) -> tuple[bool, bytes]:
    """Answer a request to ``$cbs``; return whether the token is accepted, and the encoded answer.

    Raises
    ------
    DecodeError
        The request's body is not an AMQP value.
    """
    asked = request.application_properties
    token = Token(str(asked.get("type")), str(request.value), str(asked.get("name")))
    known = token.kind in ("jwt", "servicebus.windows.net:sastoken")
    accepted = asked.get("operation") == "put-token" and known and namespace.accept_token(token)
    status = {
        "status-code": Int(202 if accepted else 401),
        "status-description": "Accepted" if accepted else "Unauthorized: the token was refused",
    }
    return accepted, response(request, status, None)


def manage(namespace: Namespace, queue: Queue, request: Message) -> bytes:
    """Perform a request to a queue's management node; return the encoded answer, also for a refusal."""
    operation = str(request.application_properties.get("operation"))
    condition = namespace.take_fault(_KINDS.get(operation, "management"), queue)
    if condition is not None:
        return _refusal(request, condition, "fault injected")
    handler = _HANDLERS.get(operation)
    if handler is None:
        return _refusal(request, "amqp:not-implemented", f"{operation} is not implemented")
    try:
        arguments = request.value
        if not isinstance(arguments, dict):
            raise DecodeError("the body of a management request is a map")
        value = handler(queue, arguments)
    except LockNotHeld as error:
        return _refusal(request, LOCK_LOST, str(error))
    except DecodeError as error:
        return _refusal(request, "amqp:decode-error", str(error))
    status = 200 if value is not None else 204
    return response(request, {"statusCode": Int(status), "statusDescription": "OK"}, value)


def _refusal(request: Message, condition: str, description: str) -> bytes:
    status = {
        "statusCode": Int(_STATUS.get(condition, 500)),
        "statusDescription": description,
        "errorCondition": Symbol(condition),
    }
    return response(request, status, None)


def _argument(arguments: dict[Any, Any], name: str, kind: type[Any]) -> Any:
    value = arguments.get(name)
    if not isinstance(value, kind):
        raise DecodeError(f"{name!r} is {value!r:.80}, not a {kind.__name__}")
    return value


def _arguments(arguments: dict[Any, Any], name: str, kind: type[Any]) -> list[Any]:
    values = _argument(arguments, name, list)
    if not all(isinstance(value, kind) for value in values):
        raise DecodeError(f"{name!r} holds something other than {kind.__name__}")
    return list(values)


def _renew(queue: Queue, arguments: dict[Any, Any]) -> dict[str, Any]:
    tokens = _arguments(arguments, "lock-tokens", UUID)
    return {"expirations": Array(Timestamp(queue.renew(token) * 1000) for token in tokens)}


def _settle(queue: Queue, arguments: dict[Any, Any]) -> dict[str, Any]:
    status = _argument(arguments, "disposition-status", str)
    reason, description = arguments.get("deadletter-reason"), arguments.get("deadletter-description")
    settle: Callable[[UUID], None] | None = {
        "completed": queue.complete,
        "abandoned": queue.abandon,
        "suspended": lambda token: queue.dead_letter(token, reason, description),
    }.get(status)
    if settle is None:
        raise DecodeError(f"no settlement is called {status!r}")
    for token in _arguments(arguments, "lock-tokens", UUID):
        settle(token)
    return {}


def _peek(queue: Queue, arguments: dict[Any, Any]) -> dict[str, Any] | None:
    first = _argument(arguments, "from-sequence-number", int)
    found: list[dict[str, Any]] = []
    size = 0
    for stored in queue.peek(first, _argument(arguments, "message-count", int)):
        encoded = encode_message(stored.to_wire())
        size += len(encoded)
        if found and size > MAX_PEEK_BYTES:
            break
        found.append({"message": encoded})
    return {"messages": found} if found else None


_HANDLERS: dict[str, _Handler] = {
    _VENDOR + "renew-lock": _renew,
    _VENDOR + "update-disposition": _settle,
    _VENDOR + "peek-message": _peek,
}
_KINDS: dict[str, Any] = {
    _VENDOR + "renew-lock": "renew",
    _VENDOR + "update-disposition": "settle",
}
