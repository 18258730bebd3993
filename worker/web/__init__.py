"""The worker over HTTP: the jobs API and its client, the health probes, and the access rule."""
