"""Commands to set up a worker and to find out why it fails: provision, doctor, demo, dead-letters."""
