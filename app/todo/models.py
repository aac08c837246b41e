"""What is kept in the database."""

from django.db import models


class Todo(models.Model):
    """One thing to do."""

    title = models.CharField(max_length=255)
    completed = models.BooleanField(default=False)
    order = models.IntegerField(null=True, blank=True)

    class Meta:
        # PostgreSQL puts todos without an order last; the id makes the order of the rest total.
        ordering = ("order", "id")

    def __str__(self) -> str:
        return self.title
