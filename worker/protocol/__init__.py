"""The task protocol as values: messages, rows and JSON, exactly as the platform writes and reads them."""
