"""The value types of the task protocol: messages, rows and JSON, exactly as the platform uses them."""
