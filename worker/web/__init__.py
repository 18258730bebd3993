"""The worker's HTTP side: the jobs API, its client, health probes and who may use them."""
