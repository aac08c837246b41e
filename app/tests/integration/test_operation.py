"""What else needs the database."""

from django.core.management import call_command
from django.db import connection
from django.urls import reverse

from todo.models import Todo


def test_migrations_match_the_models():
    call_command("makemigrations", "--check", "--dry-run")


def test_health(client):
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"


def test_health_without_a_table(client):
    with connection.schema_editor() as editor:
        editor.delete_model(Todo)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["status"] == "database unavailable"


def test_admin(admin_client):
    Todo.objects.create(title="walk the dog")
    response = admin_client.get(reverse("admin:todo_todo_changelist"))
    assert response.status_code == 200
    assert "walk the dog" in response.content.decode()
