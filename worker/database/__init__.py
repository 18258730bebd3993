"""Access to the task table in PostgreSQL: each guarantee is kept by one short transaction."""
