"""Commands for whoever sets a worker up or finds that it fails: doctor, provision, demo, dead letters."""
