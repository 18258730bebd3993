"""A development Service Bus broker on loopback, which the real SDK cannot tell from the service."""
