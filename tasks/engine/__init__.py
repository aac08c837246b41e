"""The machinery. It knows neither Invoke nor the application; `tasks/__init__.py` has the map."""
