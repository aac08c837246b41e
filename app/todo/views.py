"""The API and the error pages around it."""

from http import HTTPStatus
from typing import Any

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response

from .models import Todo
from .serializers import TodoSerializer


class TodoList(generics.ListCreateAPIView):
    """All todos. Clients of the Todo-Backend expect them in one array, without pages."""

    queryset = Todo.objects.all()
    serializer_class = TodoSerializer

    def delete(self, _request: Request) -> Response:
        """Delete all todos."""
        self.get_queryset().delete()
        return Response(status=HTTPStatus.NO_CONTENT)


class TodoDetail(generics.RetrieveUpdateDestroyAPIView):
    """One todo. As the Todo-Backend has it, `PUT` changes the given fields only, as `PATCH`."""

    queryset = Todo.objects.all()
    serializer_class = TodoSerializer

    @transaction.atomic
    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change the given fields of a todo, which is locked meanwhile.

        Otherwise, of two clients which change different fields at the same time, one would undo
        what the other does, and an update could bring a todo back that was just deleted.
        """
        self.queryset = Todo.objects.select_for_update()
        return super().update(request, *args, **{**kwargs, "partial": True})


def not_found(_request: HttpRequest, exception: Exception) -> JsonResponse:  # noqa: ARG001
    """Answer requests for unknown addresses as the API answers those for unknown todos."""
    return JsonResponse({"detail": "Not found."}, status=HTTPStatus.NOT_FOUND)
