"""Todos as JSON."""

from typing import Any, ClassVar

from django.db import models
from rest_framework import serializers

from .models import Todo


class StrictField(serializers.Field):
    """A field which takes its own JSON type only.

    DRF's fields are made for HTML forms as well, where everything is a string, and so would take
    the number 5 for a title and the string "yes" for a boolean.
    """

    json_type: type

    def to_internal_value(self, data: Any) -> Any:
        """Return the value as DRF's field does, if its type is right."""
        if type(data) is not self.json_type:  # not isinstance(): True is an int
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictBooleanField(StrictField, serializers.BooleanField):
    """``true`` or ``false``."""

    json_type = bool


class StrictCharField(StrictField, serializers.CharField):
    """A string."""

    json_type = str


class StrictIntegerField(StrictField, serializers.IntegerField):
    """An integer."""

    json_type = int


class TodoSerializer(serializers.ModelSerializer):
    """A todo and its absolute address."""

    serializer_field_mapping: ClassVar = {
        models.BooleanField: StrictBooleanField,
        models.CharField: StrictCharField,
        models.IntegerField: StrictIntegerField,
    }

    url = serializers.HyperlinkedIdentityField(view_name="todo")

    class Meta:
        model = Todo
        fields = ("url", "title", "completed", "order")
