"""One request to Label Studio: authenticated, limited in time, repeated where that is safe, errors typed.

The SDK's client wrapper exchanges personal access tokens and builds requests; what it leaves to others is done here:
no redirects (the SDK would carry the key across them, in the body of the token exchange too), no repetition of what
may have been done already, and one tree of errors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import orjson
import tenacity

from ml_backend.errors import (
    LabelStudioError,
    LabelStudioRefused,
    LabelStudioUnreachable,
    SettingsError,
    WrongToken,
)
from ml_backend.label_studio.tokens import kind_of, problem_with, refusal
from ml_backend.unpacking import WronglyPacked, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from label_studio_sdk.core.client_wrapper import SyncClientWrapper

_CONNECT_S = 5.0
_LONGEST_DETAIL = 300
_LARGEST = 256 * 1024 * 1024
"""Bytes of an answer, unpacked: the sync's pages have a thirtieth of that."""
_EXCHANGE = "/api/token/refresh/"
_EACH_ALONE = {"Connection": "close"}
"""Label Studio's own server writes head and body apart. On a connection that is used again, its kernel holds the body
until the head is acknowledged, which a client's kernel puts off: 44 ms of each request, where a new connection costs
less than one. With TLS a new connection costs more, and the proxy that speaks it writes both at once."""
_IS_IT_ONE = "Is LABEL_STUDIO_URL the address of a Label Studio?"
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class TimedOut(LabelStudioUnreachable):
    """Label Studio took the request and did not finish in time: asking for less may help."""


class TooLarge(LabelStudioError):
    """An answer is larger than what is held in memory for one: asking for less may help."""


class _TryAgainError(Exception):
    """A failure that may pass; ``error`` is what to raise if it does not."""

    def __init__(self, error: LabelStudioError) -> None:
        self.error = error
        super().__init__()


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    parameters: dict[str, str | int]
    content: bytes | None
    repeatable: bool
    timeouts_pass: bool


class Transport:
    """Requests to one Label Studio with one key. Threads may share it; close it when done.

    ``timeout_s``: without a byte from Label Studio, per request. ``patience_s``: how long a failing request is
    repeated, with growing pauses; 0 never repeats. ``pause`` sleeps between the attempts and may raise to stop.
    ``largest``: bytes of an answer.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_s: float = 60.0,
        patience_s: float = 30.0,
        pause: Callable[[float], None] = time.sleep,
        largest: int = _LARGEST,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("LABEL_STUDIO_URL", "must begin with http:// or https:// and name a host")
        if parts.username is not None:
            raise SettingsError("LABEL_STUDIO_URL", "must not hold a user name: it would take the API key's place")
        key = api_key.strip()
        if problem := problem_with(key):
            raise WrongToken(problem)
        # The SDK joins the path of the token exchange to this: without the slash a path prefix would be lost.
        self.base_url = base_url.rstrip("/") + "/"
        self.token_kind = kind_of(key)
        self._key = key
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._pause = pause
        self._largest = largest
        self._http = httpx.Client(
            headers={"Accept-Encoding": "gzip", **({} if parts.scheme == "https" else _EACH_ALONE)},
            timeout=httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
            follow_redirects=False,
            # Without TLS there is nothing to verify, and reading the certificates takes longer than a request.
            verify=parts.scheme == "https",
            event_hooks={"response": [self._look_at]},
        )
        self._client: SyncClientWrapper | None = None
        self.time_us: int | None = None
        """Label Studio's clock at its last answer (the header ``Date``, whole seconds), in microseconds."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        body: object = None,
        repeatable: bool = True,
    ) -> object:
        """Make one call; its decoded JSON answer, None for an answer without a body. See `sized` for the rest."""
        return self.sized(method, path, parameters=parameters, body=body, repeatable=repeatable)[0]

    def sized(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        body: object = None,
        repeatable: bool = True,
        timeouts_pass: bool = True,
    ) -> tuple[object, int]:
        """Make one call; (its decoded JSON answer or None, how many bytes that was).

        ``repeatable`` is False for what must not be done twice: it is repeated only if it was never sent.
        ``timeouts_pass`` is False where a time-out shall end the call at once (`TimedOut`).
        Raises `WrongToken`, `LabelStudioRefused` (its ``status``), `LabelStudioUnreachable`, and `LabelStudioError`
        when the answer is no JSON, or has no end (`TooLarge`).
        """
        content = None if body is None else orjson.dumps(body)
        call = _Call(method, path, dict(parameters or {}), content, repeatable, timeouts_pass)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgainError),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=8.0),
            stop=tenacity.stop_after_delay(self._patience_s),
            sleep=self._pause,
            reraise=True,
        )
        try:
            answer = attempts(self._attempt, call)
        except _TryAgainError as last:
            raise last.error from last.__cause__
        # An answer and its stream refer to each other: pages of megabytes would wait for the collector of cycles.
        answer.stream = httpx.ByteStream(b"")
        if not answer.content:
            return None, 0
        try:
            return orjson.loads(answer.content), len(answer.content)
        except orjson.JSONDecodeError:
            raise LabelStudioError(
                f"{self._host} answered {path} with something else than JSON. {_IS_IT_ONE}"
            ) from None

    def authorization(self, *, renew: bool = False) -> dict[str, str]:
        """The header that proves who asks; exchanges a personal access token when it must, or with ``renew``.

        Raises `WrongToken`, `LabelStudioUnreachable`, `LabelStudioRefused` and `LabelStudioError`.
        """
        from label_studio_sdk.core.api_error import ApiError  # noqa: PLC0415 - see _send

        if renew:
            self._client = None
        try:
            return {"Authorization": self._wrapper().get_headers()["Authorization"]}
        except ApiError as error:
            raise WrongToken(refusal(self.token_kind, _detail_of(error.body))) from None
        except ValueError:
            raise LabelStudioError(f"{self._host} does not exchange personal access tokens. {_IS_IT_ONE}") from None
        except httpx.TransportError as cause:
            raise LabelStudioUnreachable(f"Label Studio at {self._host} cannot be reached: {cause}") from cause
        except _TryAgainError as last:
            raise last.error from last.__cause__

    def _attempt(self, call: _Call) -> httpx.Response:
        try:
            answer = self._send(call)
            if answer.status_code == httpx.codes.UNAUTHORIZED and self._client is not None:
                # Our clock may disagree with Label Studio's about when an access token ends: a new one decides.
                self._client = None
                answer = self._send(call)
        except httpx.TimeoutException as cause:
            text = f"Label Studio at {self._host} did not answer {call.path} within {self._timeout_s:g} s"
            if isinstance(cause, _NEVER_SENT):
                raise _TryAgainError(LabelStudioUnreachable(text)) from cause
            if call.repeatable and call.timeouts_pass:
                raise _TryAgainError(TimedOut(text)) from cause
            raise TimedOut(text) from cause
        except httpx.TransportError as cause:
            error = LabelStudioUnreachable(f"Label Studio at {self._host} cannot be reached: {cause}")
            if call.repeatable or isinstance(cause, _NEVER_SENT):
                raise _TryAgainError(error) from cause
            raise error from cause
        if answer.is_success:
            return answer
        status, detail = answer.status_code, _detail_of(answer)
        if status == httpx.codes.UNAUTHORIZED and detail:
            raise WrongToken(refusal(self.token_kind, detail))
        refused = LabelStudioRefused(status, self._says(call.path, answer))
        # 429: it was refused before anything was done, so that even what must not be done twice may be tried again.
        if status == httpx.codes.TOO_MANY_REQUESTS or (answer.is_server_error and call.repeatable):
            raise _TryAgainError(refused)
        raise refused

    def _send(self, call: _Call) -> httpx.Response:
        # Late: half a second and 38 MB, which only workers need to spend.
        from label_studio_sdk.core.api_error import ApiError  # noqa: PLC0415

        try:
            return self._wrapper().httpx_client.request(
                call.path,
                method=call.method,
                params=call.parameters,
                content=call.content,
                headers=None if call.content is None else {"Content-Type": "application/json"},
                request_options={"max_retries": 0},
            )
        except ApiError as error:
            # The token exchange was refused, or the SDK sees in the key itself that it has expired.
            raise WrongToken(refusal(self.token_kind, _detail_of(error.body))) from None
        except ValueError:
            # The SDK reads the answer of a refused token exchange as JSON, whatever it is.
            raise LabelStudioError(f"{self._host} does not exchange personal access tokens. {_IS_IT_ONE}") from None

    def _wrapper(self) -> SyncClientWrapper:
        from label_studio_sdk.core.client_wrapper import SyncClientWrapper  # noqa: PLC0415 - see _send

        client = self._client
        if client is None:
            client = self._client = SyncClientWrapper(
                api_key=self._key, base_url=self.base_url, httpx_client=self._http, timeout=self._timeout_s
            )
        return client

    def _look_at(self, answer: httpx.Response) -> None:
        """Sees every answer before its body is read, those too that the SDK takes for itself."""
        self.time_us = _date_of(answer)
        path = answer.url.path
        assert isinstance(answer.stream, httpx.SyncByteStream)  # noqa: S101 - the client is not asynchronous
        encoding = answer.headers.pop("content-encoding", "")
        answer.stream = _Bounded(answer.stream, encoding, self._largest, f"Label Studio at {self._host}", path)
        if answer.is_redirect:
            target = urlsplit(answer.headers.get("location", ""))
            to = f"{target.scheme}://{target.netloc}" if target.netloc else target.path
            raise LabelStudioRefused(
                answer.status_code,
                f"Label Studio at {self._host} redirects {path} to {to}. The API key is never sent across a redirect: "
                "set LABEL_STUDIO_URL to the address that answers",
            )
        if path.endswith(_EXCHANGE) and answer.is_server_error:
            answer.read()
            raise _TryAgainError(LabelStudioRefused(answer.status_code, self._says(path, answer)))

    def _says(self, path: str, answer: httpx.Response) -> str:
        detail = _detail_of(answer) or answer.reason_phrase
        return f"Label Studio at {self._host} answered {path} with {answer.status_code}: {detail}"

    @property
    def _host(self) -> str:
        """Where requests go, without what may be secret in a URL."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class _Bounded(httpx.SyncByteStream):
    """An answer's body, unpacked in small parts, that raises `LabelStudioError` when it is too large."""

    def __init__(self, body: httpx.SyncByteStream, encoding: str, largest: int, who: str, path: str) -> None:
        self._body = body
        self._encoding = encoding
        self._largest = largest
        self._who = who
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        try:
            for part in unpacked(self._body, self._encoding):
                size += len(part)
                if size > self._largest:
                    raise TooLarge(
                        f"{self._who} answered {self._path} with more than {self._largest:,} bytes. {_IS_IT_ONE}"
                    )
                yield part
        except WronglyPacked as error:
            raise LabelStudioError(f"{self._who} answered {self._path} with what cannot be read: {error}") from None

    def close(self) -> None:
        self._body.close()


def _date_of(answer: httpx.Response) -> int | None:
    try:
        return int(parsedate_to_datetime(answer.headers.get("date", "")).timestamp()) * 1_000_000
    except ValueError:
        return None


def _detail_of(body: object) -> str:
    """The sentence in Label Studio's JSON error, shortened; empty when it is none of Label Studio's."""
    if isinstance(body, httpx.Response):
        try:
            body = orjson.loads(body.content)
        except orjson.JSONDecodeError:
            return ""
    if not isinstance(body, dict) or "detail" not in body:
        return ""
    reasons = body.get("validation_errors")
    text = str(body["detail"]) if not reasons else f"{body['detail']}: {orjson.dumps(reasons).decode()}"
    return text[:_LONGEST_DETAIL]
