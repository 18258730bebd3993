"""The task table in PostgreSQL: every statement that carries a guarantee, in one short transaction."""
