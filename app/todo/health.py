"""The health check."""

import logging
from collections.abc import Callable
from http import HTTPStatus

from django.conf import settings
from django.db import Error
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .models import Todo

logger = logging.getLogger(__name__)


@never_cache
@require_safe
def healthz(_request: HttpRequest) -> JsonResponse:
    """Tell whether the application can serve todos, and which revision of it does."""
    try:
        # Not just SELECT 1: without its table the application is of no use either.
        Todo.objects.exists()
    except Error as error:
        logger.error("Health check: %s", error)
        status, code = "database unavailable", HTTPStatus.SERVICE_UNAVAILABLE
    else:
        status, code = "ok", HTTPStatus.OK
    return JsonResponse({"status": status, "revision": settings.REVISION}, status=code)


class HealthMiddleware:
    """Answers ``/healthz`` ahead of all other middleware.

    Whoever checks the health speaks to the container itself, in plain HTTP and with whatever
    host name it has there: neither the redirect to HTTPS nor the allowed hosts are for them.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request or pass it on."""
        if request.path_info == "/healthz":
            return healthz(request)
        return self.get_response(request)
