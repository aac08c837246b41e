"""Addresses. The health check's is not among them: see `todo.health`.

There is one address for each resource: those of the API end without a slash, and with one they
are not found.
"""

from django.contrib import admin
from django.urls import path

from . import views

urlpatterns = [
    path("todos", views.TodoList.as_view(), name="todos"),
    path("todos/<int:pk>", views.TodoDetail.as_view(), name="todo"),
    path("admin/", admin.site.urls),
]

# Errors are JSON everywhere, not in the API's own views only.
handler400 = "rest_framework.exceptions.bad_request"
handler404 = "todo.views.not_found"
handler500 = "rest_framework.exceptions.server_error"
