"""Service Bus: receive, keep locked, settle and send; no message is lost, and none is settled early."""
