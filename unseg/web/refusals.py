"""What a request is told that is not served: one line with the remedy, as JSON, and the status that fits."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from unseg.errors import UserError

NOT_SERVED = "the server failed on this request; its terminal says why"


class Refusal(UserError):
    """A request that is not served. status: of HTTP. The message is one line with the remedy."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def told(error: Exception) -> Response:
    """Returns the answer to a request that ended in an error: `{"error": "one line"}`."""
    if isinstance(error, Refusal):
        return JSONResponse({"error": str(error)}, error.status)
    if isinstance(error, UserError):  # of a picture or an option
        return JSONResponse({"error": str(error)}, 422)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": f"{error.detail}; see the page `api`"}, error.status_code)
    if isinstance(error, MemoryError):
        return JSONResponse({"error": "not enough memory for this picture; make it smaller"}, 413)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # nobody reads it
    if isinstance(error, FileNotFoundError):
        return JSONResponse({"error": "this was removed meanwhile; reload the page"}, 404)
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return JSONResponse({"error": f"the server cannot keep the file ({reason}); make room on its disk"}, 507)
    return JSONResponse({"error": NOT_SERVED}, 500)


async def handle(request: Request, error: Exception) -> Response:
    """Answers a request that ended in an error, as Starlette asks its handlers to."""
    return told(error)


HANDLERS = dict.fromkeys((UserError, HTTPException, MemoryError, OSError, ClientDisconnect, Exception), handle)
