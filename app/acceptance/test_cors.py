"""Clients from all origins may use the API."""

import pytest

ORIGIN = {"Origin": "https://client.example"}


def test_answers_are_for_all_origins(client, create):
    todo = create()
    for response in (
        client.get("/todos", headers=ORIGIN),
        client.get(todo["url"], headers=ORIGIN),
        client.get("/todos/0", headers=ORIGIN),
        client.post("/todos", headers=ORIGIN, json={}),
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Location" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("path", ["/todos", "/todos/1"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_pre_flight(client, path, method):
    headers = {
        "Access-Control-Request-Headers": "content-type",
        "Access-Control-Request-Method": method,
    }
    response = client.options(path, headers=ORIGIN | headers)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert method in response.headers["Access-Control-Allow-Methods"]
    assert "content-type" in response.headers["Access-Control-Allow-Headers"]
