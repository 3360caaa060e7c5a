"""The HTTP API: a thin door. Each request is one transaction that proves its key and calls one verb.

The table of routes (the modules `*_routes`) is the one description of it: the router, the checks of what comes
in and /openapi.json are all made from it. No rule of the engine stands here.
"""
