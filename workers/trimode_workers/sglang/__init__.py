"""SGLang as an engine: one server process per replica, in one mode for its whole life.

    options   what a replica is told                    tiers     block lengths by the size of the batch
    command   the server's command line                 server    its process: start, watch, end, logs
    client    what the replica's shell talks to         stream    from chunks to token events
    observe   cycles and acceptance from chunks         metrics   the server's own figures

Belongs here: everything about SGLang. The server's environment is its own: nothing here imports it.
"""
