"""A development Service Bus broker on loopback; the real SDK cannot tell it from the service."""
