"""A Todo-Backend: one small REST resource, kept in PostgreSQL."""
