"""The backing services on one machine: an embedded PostgreSQL and a development Service Bus broker."""
