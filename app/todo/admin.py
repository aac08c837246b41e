"""The todos in Django's admin."""

from django.contrib import admin

from .models import Todo


@admin.register(Todo)
class TodoAdmin(admin.ModelAdmin):
    """All fields at a glance."""

    list_display = ("title", "completed", "order")
    list_filter = ("completed",)
    search_fields = ("title",)
