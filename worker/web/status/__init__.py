"""The status page at ``/``: running, waiting and failed tasks, jobs, dead letters, outbox, health and log.

`facts` are the values that the page shows, `board` collects and renders them as HTML sections, and `page`
serves browsers.
"""
