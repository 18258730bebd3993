"""What makes one machine enough: an embedded PostgreSQL and a development Service Bus broker."""
