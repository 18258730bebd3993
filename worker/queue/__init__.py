"""Access to Service Bus: receive, lock, settle and send; no message is lost or settled early."""
