"""The status page at ``/``: what runs, waits and failed, the newest jobs, dead letters, the outbox, health.

`board` knows it all and says it in pieces of HTML, `facts` are what it knows, `page` answers browsers.
"""
