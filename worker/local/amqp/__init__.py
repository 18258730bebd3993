"""AMQP 1.0 on the wire: types, frames and messages, encoded and decoded without loss."""
