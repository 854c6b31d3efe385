"""The command line ``meshsvc``. Only ``run`` imports Twisted; every other verb starts fast."""
